//! Identifies the boot and network namespace of kernel counters, from `<proc-root>/sys/kernel/random/boot_id` and
//! `<proc-root>/self/ns/net`.
//!
//! Counters start at zero when the machine boots. Network counters also start at zero in a new network namespace of a
//! container. A new counter can already be higher than the old one, so its value alone does not show that.

use std::fs;
use std::path::Path;

/// Identifies boot and network namespace, without an unreadable part; `None` if neither is readable.
///
/// The kernel may reuse a namespace's number. Then only a falling counter shows the difference.
#[must_use]
pub fn read(proc_root: &Path) -> Option<String> {
    // Such as `net:[4026531840]`.
    let namespace = fs::read_link(proc_root.join("self/ns/net")).ok();
    join(
        boot_id(proc_root).as_deref(),
        namespace.as_deref().and_then(Path::to_str).and_then(parse_namespace),
    )
}

#[must_use]
pub fn boot_id(proc_root: &Path) -> Option<String> {
    let text = fs::read_to_string(proc_root.join("sys/kernel/random/boot_id")).ok()?;
    parse_boot_id(&text).map(str::to_owned)
}

/// Parses the boot id: 32 hex digits in groups, as in `random(4)`.
#[must_use]
pub fn parse_boot_id(text: &str) -> Option<&str> {
    let id = text.trim();
    let groups = id
        .split('-')
        .map(|group| group.chars().all(|digit| digit.is_ascii_hexdigit()).then_some(group.len()));
    groups.eq([8, 4, 4, 4, 12].map(Some)).then_some(id)
}

/// Parses the number in `net:[<number>]`; see `namespaces(7)`.
#[must_use]
pub fn parse_namespace(link: &str) -> Option<&str> {
    let number = link.strip_prefix("net:[")?.strip_suffix(']')?;
    number.parse::<u64>().is_ok().then_some(number)
}

fn join(boot: Option<&str>, namespace: Option<&str>) -> Option<String> {
    let boot = boot.map(|boot| format!("boot:{boot}"));
    let namespace = namespace.map(|namespace| format!("net:{namespace}"));
    let parts: Vec<_> = [boot, namespace].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    const BOOT: &str = "192c5281-bf1e-4712-86d7-3448f8fb3f2d";

    #[test]
    fn combines_the_readable_parts() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        assert_eq!(read(root.path()), None);
        fs::create_dir_all(path("self/ns")).unwrap();
        symlink("net:[4026531840]", path("self/ns/net")).unwrap();
        assert_eq!(read(root.path()).unwrap(), "net:4026531840");
        fs::create_dir_all(path("sys/kernel/random")).unwrap();
        fs::write(path("sys/kernel/random/boot_id"), format!("{BOOT}\n")).unwrap();
        assert_eq!(read(root.path()).unwrap(), format!("boot:{BOOT} net:4026531840"));
        fs::remove_file(path("self/ns/net")).unwrap();
        assert_eq!(read(root.path()).unwrap(), format!("boot:{BOOT}"));
    }

    #[test]
    fn the_boot_of_this_machine_is_stable() {
        let boot = read(Path::new("/proc"));
        assert!(boot.is_some());
        assert_eq!(read(Path::new("/proc")), boot);
    }

    #[test]
    fn an_invalid_id_is_left_out() {
        assert_eq!(parse_boot_id(&format!("{BOOT}\n")), Some(BOOT));
        for text in [
            "",
            "\n",
            "192c5281",
            &BOOT.replace('-', ""),
            &format!("{BOOT}-"),
            &format!("{BOOT} x"),
            &BOOT.replace('f', "g"),
        ] {
            assert_eq!(parse_boot_id(text), None, "{text:?}");
        }
        assert_eq!(parse_namespace("net:[4026531840]"), Some("4026531840"));
        for link in ["", "net:[]", "mnt:[1]", "net:[1", "net:[x]", "/proc/1/ns/net"] {
            assert_eq!(parse_namespace(link), None, "{link:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            let _ = (parse_boot_id(&text), parse_namespace(&text));
        }

        #[test]
        fn a_valid_boot_id_is_unchanged(id in "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}") {
            let text = format!("{id}\n");
            prop_assert_eq!(parse_boot_id(&text), Some(id.as_str()));
        }
    }
}
