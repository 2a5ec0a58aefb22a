//! `NO_PROXY`: hosts to reach without the proxy.
//!
//! Programs differ in its syntax, so all common forms work: `*`, `example.com`, `.example.com` and `*.example.com` for
//! all subdomains, `10.*`, IPv4 and IPv6 addresses with or without brackets, networks such as `10.0.0.0/8`, and each
//! with a port.

use std::net::IpAddr;

use ipnet::IpNet;
use ureq::http::Uri;

/// Whether to reach `url` without the proxy.
#[must_use]
pub fn covers(list: &str, url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let default_port = if url.scheme_str() == Some("https") { 443 } else { 80 };
    let port = url.port_u16().unwrap_or(default_port);
    entries(list).filter_map(Entry::parse).any(|entry| {
        entry.port.is_none_or(|only| only == port)
            && match entry.host {
                Host::Network(network) => {
                    bare(host).parse().is_ok_and(|address: IpAddr| network.contains(&address))
                }
                Host::Name(pattern) => matches(pattern, host),
            }
    })
}

/// The positions, from 1, of entries in no known form, which are ignored. Their text is not returned: it may be anything.
#[must_use]
pub fn not_understood(list: &str) -> Vec<usize> {
    let numbered = entries(list).zip(1..);
    numbered.filter(|(entry, _)| Entry::parse(entry).is_none()).map(|(_, number)| number).collect()
}

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

struct Entry<'a> {
    host: Host<'a>,
    /// `None` means every port.
    port: Option<u16>,
}

enum Host<'a> {
    /// Also a single address.
    Network(IpNet),
    Name(&'a str),
}

impl<'a> Entry<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if let Some(host) = Host::parse(text) {
            return Some(Self { host, port: None });
        }
        let (host, port) = text.rsplit_once(':')?;
        Some(Self { host: Host::parse(host)?, port: Some(port.parse().ok()?) })
    }
}

impl<'a> Host<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if let Ok(address) = bare(text).parse::<IpAddr>() {
            return Some(Self::Network(address.into()));
        }
        if let Ok(network) = text.parse() {
            return Some(Self::Network(network));
        }
        let name = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(text);
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
        (!text.is_empty() && name.chars().all(plain)).then_some(Self::Name(text))
    }
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn matches(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.to_ascii_lowercase(), host.to_ascii_lowercase());
    if let Some(end) = pattern.strip_prefix('*') {
        host.ends_with(end)
    } else if let Some(start) = pattern.strip_suffix('*') {
        host.starts_with(start)
    } else if pattern.starts_with('.') {
        host.ends_with(&pattern)
    } else {
        host == pattern
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covered(list: &str, host: &str) -> bool {
        covers(list, &format!("https://{host}/path").parse().unwrap())
    }

    #[test]
    fn every_no_proxy_notation_is_honoured() {
        for (list, inside, outside) in [
            ("*", "example.com", None),
            ("example.com", "EXAMPLE.com", Some("a.example.com")),
            (".internal, example.org", "a.internal", Some("internal.org")),
            ("*.internal", "a.b.internal", Some("a.internal.org")),
            ("10.*", "10.1.2.3", Some("11.1.2.3")),
            ("10.0.0.1", "10.0.0.1", Some("10.0.0.2")),
            ("10.0.0.0/8", "10.255.0.1", Some("11.0.0.1")),
            ("192.168.1.77/16", "192.168.200.1", Some("192.169.0.1")),
            ("0.0.0.0/0", "203.0.113.1", Some("[::1]")),
            ("fd00::/8", "[fdaa::3]:8443", Some("[fe80::1]")),
            ("::1", "[::1]", Some("[::2]")),
            ("[::1]", "[0:0:0:0:0:0:0:1]:8443", Some("[::2]")),
            ("[::1]:8443", "[::1]:8443", Some("[::1]")),
            ("example.com:443", "example.com", Some("example.com:8443")),
            ("10.0.0.0/8:8443", "10.0.0.1:8443", Some("10.0.0.1")),
            ("a, ,b ,c", "c", Some("d")),
        ] {
            assert!(covered(list, inside), "{list}: {inside}");
            assert!(outside.is_none_or(|host| !covered(list, host)), "{list}: {outside:?}");
            assert!(not_understood(list).is_empty(), "{list}");
        }
        assert!(!covered("", "example.com"));
    }

    #[test]
    fn invalid_entries_are_reported_by_number() {
        assert_eq!(
            not_understood("a,10.0.0.0/33,,<local>,b:port,*a*,http://h/,::1"),
            [2, 3, 4, 5, 6]
        );
        assert!(!covered("10.0.0.0/33", "10.0.0.1"));
    }

    proptest! {
        #[test]
        fn never_panics(list: String, host in "[a-z0-9.]{1,20}") {
            let _ = (not_understood(&list), covered(&list, &host));
        }

        #[test]
        fn a_network_covers_addresses_with_its_prefix(a: u32, b: u32, length in 0_u32..=32) {
            let [a, b] = [a, b].map(std::net::Ipv4Addr::from);
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            let same = u32::from(a) & mask == u32::from(b) & mask;
            prop_assert_eq!(covered(&format!("{a}/{length}"), &b.to_string()), same);
        }
    }
}
