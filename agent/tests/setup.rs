//! `setup`: its files, its checks and its questions.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

mod stage;

use stage::{AMPLE, API_KEY, Machine, Run, SANDBOX_ID, Server, answer, run, telemetry, token};

/// A machine with a fake `systemctl`, which only logs its arguments.
struct Host {
    machine: Machine,
    server: Server,
    controller: Server,
}

impl Host {
    fn new() -> Self {
        let machine = Machine::new();
        let log = machine.path("systemctl.log");
        let fake = format!("#!/bin/sh\necho \"$*\" >>{}\n", log.display());
        let fake = machine.put("bin/systemctl", &fake);
        fs::set_permissions(fake, PermissionsExt::from_mode(0o755)).unwrap();
        let status = r#"{"state":"running","pid":42,"uptime":60,"restarts":0,"lastExit":null}"#;
        let host = Self {
            machine,
            server: Server::start(None, telemetry),
            controller: Server::answering(answer("200 OK", "", status)),
        };
        let (proc_root, state) = (host.machine.path("."), host.machine.path("state.json"));
        host.machine.put(
            "etc/agent.env",
            &format!(
                "# Required.\n#KILOCLAW_CHECKIN_URL=https://example.com\nKILOCLAW_PROC_ROOT={}\nKILOCLAW_STATE_FILE={}\n",
                proc_root.display(),
                state.display()
            ),
        );
        host
    }

    /// `setup` with all values.
    fn setup(&self) -> Command {
        let mut command = self.bare();
        command
            .env("KILOCLAW_CHECKIN_URL", self.server.url())
            .env("KILOCODE_API_KEY", API_KEY)
            .env("OPENCLAW_GATEWAY_TOKEN", token(SANDBOX_ID))
            .env("KILOCLAW_SANDBOX_ID", SANDBOX_ID)
            .env("KILOCLAW_STATUS_URL", format!("http://{}/status", self.controller.address));
        command
    }

    /// `setup` without any value.
    fn bare(&self) -> Command {
        self.bare_in(&self.machine.path("etc"))
    }

    fn bare_in(&self, directory: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiloclaw-agent"));
        let path = format!("{}:/usr/bin:/bin", self.machine.path("bin").display());
        command.arg("setup").arg("--directory").arg(directory).env_clear().env("PATH", path);
        command.stdin(Stdio::null());
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.machine.path("etc").join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.file(name)).unwrap().permissions().mode() & 0o777
    }

    /// The calls of `systemctl` since the last call of this.
    fn systemctl(&self) -> Vec<String> {
        let log = self.machine.path("systemctl.log");
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(log);
        text.lines().map(str::to_owned).collect()
    }
}

fn succeeded(run: &Run) {
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
}

#[test]
fn writes_settings_and_keys_checks_them_and_starts_the_service() {
    let host = Host::new();
    let shown = run(&mut host.setup());
    succeeded(&shown);
    assert!(shown.stdout.contains("gateway_token"), "the report of doctor: {}", shown.stdout);
    let settings = host.text("agent.env");
    let url =
        format!("# Required.\nKILOCLAW_CHECKIN_URL={}\nKILOCLAW_PROC_ROOT=", host.server.url());
    assert!(settings.starts_with(&url), "{settings}");
    assert!(settings.contains(&format!("\nKILOCLAW_SANDBOX_ID={SANDBOX_ID}\n")), "{settings}");
    assert!(!settings.contains(API_KEY) && !settings.contains(&token(SANDBOX_ID)));
    assert_eq!(host.text("api-key"), format!("{API_KEY}\n"));
    assert_eq!(host.text("gateway-token"), format!("{}\n", token(SANDBOX_ID)));
    assert_eq!((host.mode("api-key"), host.mode("gateway-token")), (0o600, 0o600));
    let called = host.systemctl();
    assert_eq!(called.first().unwrap(), "--quiet enable kiloclaw-agent");
    assert_eq!(called.last().unwrap(), "--quiet restart kiloclaw-agent");
    assert!(
        host.server.seen().iter().all(|request| {
            request.body.is_empty() || request.target().1.contains("?dry_run=1")
        })
    );
}

#[test]
fn a_second_run_needs_nothing_and_changes_nothing() {
    let host = Host::new();
    succeeded(&run(&mut host.setup()));
    host.systemctl();
    let names = ["agent.env", "api-key", "gateway-token"];
    let before: Vec<_> = names.iter().map(|name| (host.text(name), host.mode(name))).collect();
    let again = run(&mut host.bare());
    succeeded(&again);
    assert!(again.stdout.contains("unchanged: the settings"), "{}", again.stdout);
    let after: Vec<_> = names.iter().map(|name| (host.text(name), host.mode(name))).collect();
    assert_eq!(before, after);
    let called = host.systemctl();
    assert!(!called.iter().any(|call| call.contains("restart")), "it is running: {called:?}");
}

#[test]
fn a_flag_changes_one_setting_and_a_new_source_replaces_the_old_one() {
    let host = Host::new();
    succeeded(&run(&mut host.setup()));
    let shown = run(host.bare().args(["--machine-id", "machine 7", "--no-start"]));
    succeeded(&shown);
    assert!(host.text("agent.env").ends_with("\nFLY_MACHINE_ID='machine 7'\n"));
    // `doctor` reports that this unit does not exist.
    let shown =
        run(host.bare().args(["--systemd-unit", "openclaw.service", "--force", "--no-start"]));
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    let settings = host.text("agent.env");
    assert!(settings.contains("\nKILOCLAW_SYSTEMD_UNIT=openclaw.service\n"), "{settings}");
    assert!(settings.contains("\n#KILOCLAW_STATUS_URL="), "{settings}");
}

#[test]
fn a_wrong_key_never_replaces_one_that_works() {
    let host = Host::new();
    succeeded(&run(&mut host.setup()));
    host.systemctl();
    let shown = run(host.bare().env("KILOCODE_API_KEY", "wrong-key"));
    assert_eq!(shown.code, 1, "{}", shown.stdout);
    assert!(
        shown.stderr.starts_with("error: a check failed, and nothing was changed"),
        "{}",
        shown.stderr
    );
    assert!(!shown.stdout.contains("wrong-key"), "{}", shown.stdout);
    assert_eq!(host.text("api-key"), format!("{API_KEY}\n"));
    assert_eq!(host.systemctl(), Vec::<String>::new());
    let forced = run(host.bare().env("KILOCODE_API_KEY", "wrong-key").arg("--force"));
    assert_eq!(forced.code, 0);
    assert_eq!(host.text("api-key"), "wrong-key\n");
}

#[test]
fn names_everything_that_is_missing_and_writes_nothing() {
    let host = Host::new();
    let before = host.text("agent.env");
    let shown = run(&mut host.bare());
    assert_eq!((shown.code, shown.stdout.as_str()), (64, ""));
    let expected = "error: not set: KILOCLAW_CHECKIN_URL, KILOCLAW_SANDBOX_ID, KILOCLAW_SYSTEMD_UNIT or \
                    KILOCLAW_STATUS_URL, KILOCODE_API_KEY, OPENCLAW_GATEWAY_TOKEN; give flags or variables, or run \
                    this on a terminal to be asked\n";
    assert_eq!(shown.stderr, expected);
    assert_eq!(host.text("agent.env"), before);
    assert!(!host.file("api-key").exists());
}

#[test]
fn refuses_values_that_would_change_another_setting() {
    let host = Host::new();
    for value in ["a\nKILOCLAW_CA_FILE=/x", "it's", "a\"b", "a\\b"] {
        let shown = run(host.setup().env("KILOCLAW_SANDBOX_ID", value));
        assert_eq!(shown.code, 64);
        assert!(
            shown.stderr.starts_with("error: KILOCLAW_SANDBOX_ID must be one line"),
            "{}",
            shown.stderr
        );
    }
    let shown = run(host.setup().env("KILOCODE_API_KEY", "two\nlines"));
    assert_eq!(shown.code, 64, "{}", shown.stderr);
    assert!(!host.file("api-key").exists());
}

#[test]
fn keys_are_copied_from_files_and_only_their_owner_can_read_them() {
    let host = Host::new();
    let key = host.machine.put("given", &format!("{API_KEY}\n"));
    host.machine.put("etc/gateway-token", &token(SANDBOX_ID));
    fs::set_permissions(host.file("gateway-token"), PermissionsExt::from_mode(0o644)).unwrap();
    let mut setup = host.setup();
    setup
        .env_remove("KILOCODE_API_KEY")
        .env_remove("OPENCLAW_GATEWAY_TOKEN")
        .arg("--api-key-file")
        .arg(key);
    succeeded(&run(&mut setup));
    assert_eq!(host.text("api-key"), format!("{API_KEY}\n"));
    assert_eq!(host.mode("gateway-token"), 0o600);
    let missing = run(host.bare().args(["--api-key-file", "/missing"]));
    assert_eq!(missing.code, 64);
    assert!(missing.stderr.starts_with("error: cannot read /missing: "), "{}", missing.stderr);
}

#[test]
fn a_failing_systemctl_and_an_unwritable_directory_exit_71_with_the_reason() {
    let host = Host::new();
    host.machine.put("bin/systemctl", "#!/bin/sh\n[ \"$2\" != restart ]\n");
    let shown = run(&mut host.setup());
    assert_eq!(shown.code, 71);
    assert_eq!(shown.stderr, "error: `systemctl restart` failed: see above\n");
    let nowhere = host.machine.put("file", "").join("etc");
    let shown = run(&mut host.bare_in(&nowhere));
    assert_eq!(shown.code, 71);
    assert!(shown.stderr.starts_with("error: cannot write "), "{}", shown.stderr);
}

/// Types each answer on a terminal after its question has appeared. Returns the exit code and the terminal's text.
fn typed(command: &mut Command, dialogue: &[(&str, &str)]) -> (i32, String) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&controller).unwrap();
    let peer = ioctl_tiocgptpeer(&controller, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    let mut terminal = File::from(controller);
    let (stdin, stdout) = (peer.try_clone().unwrap(), peer.try_clone().unwrap());
    let mut child = command.stdin(stdin).stdout(stdout).stderr(peer).spawn().unwrap();
    // Only the child has the other end, so that reading ends when the child does.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut shown = Vec::new();
    let mut dialogue = dialogue.iter();
    let mut next = dialogue.next();
    let mut seen = 0;
    let deadline = Instant::now() + AMPLE;
    let mut buffer = [0; 1024];
    while Instant::now() < deadline {
        // Reading fails with EIO after the child has ended.
        let Ok(length @ 1..) = terminal.read(&mut buffer) else { break };
        shown.extend(&buffer[..length]);
        while let Some((question, answer)) = next {
            let text = String::from_utf8_lossy(&shown[seen..]).into_owned();
            let Some(found) = text.find(question) else { break };
            seen += found + question.len();
            terminal.write_all(answer.as_bytes()).unwrap();
            next = dialogue.next();
        }
    }
    assert!(next.is_none(), "never asked: {next:?} in {}", String::from_utf8_lossy(&shown));
    let code = child.wait().unwrap().code().unwrap();
    (code, String::from_utf8(shown).unwrap())
}

#[test]
fn asks_on_a_terminal_and_does_not_show_keys() {
    let host = Host::new();
    let (url, key, token) =
        (host.server.url(), format!("{API_KEY}\n"), format!("{}\n", token(SANDBOX_ID)));
    let mut setup = host.bare();
    setup.env("KILOCLAW_STATUS_URL", format!("http://{}/status", host.controller.address));
    let (code, shown) = typed(
        &mut setup,
        &[
            ("URL of the check-ins", &format!("{url}\n")),
            ("Id of the sandbox: ", &format!("{SANDBOX_ID}\n")),
            ("API key (not shown): ", &key),
            ("gateway token (not shown): ", &token),
        ],
    );
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains(API_KEY) && !shown.contains(token.trim()), "{shown}");
    assert_eq!(host.text("api-key"), key);
    // An empty answer keeps the existing value.
    let (code, shown) =
        typed(&mut host.bare(), &[("check-ins", "\n"), ("sandbox [sandbox-1]: ", "\n")]);
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("unchanged: the settings"), "{shown}");
}

#[test]
fn ctrl_c_at_a_hidden_question_changes_nothing() {
    let host = Host::new();
    let mut setup = host.setup();
    setup.env_remove("KILOCODE_API_KEY");
    let (code, shown) = typed(&mut setup, &[("API key (not shown): ", "half\x03")]);
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("error: interrupted; nothing was changed"), "{shown}");
    assert!(!host.file("api-key").exists());
}
