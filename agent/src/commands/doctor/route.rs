//! The route to the server: resolves its host name, and connects to one of the addresses.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::commands::doctor::check::Verdict;
use crate::env_vars;

/// Minimum time for each address.
const SHORTEST_TRY: Duration = Duration::from_millis(100);

/// The host to connect to: the server or the proxy.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Name or address, without brackets.
    pub host: String,
    pub port: u16,
    /// The variable that configures it.
    pub variable: &'static str,
}

impl Peer {
    #[must_use]
    pub fn new(host: &str, port: u16, variable: &'static str) -> Self {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        Self { host: bare.unwrap_or(host).to_owned(), port, variable }
    }
}

/// Resolves the addresses on a thread of its own, which is abandoned after `timeout`: the system's resolver has none.
#[must_use]
pub fn resolve(peer: &Peer, timeout: Duration) -> (Verdict, Vec<SocketAddr>) {
    let (sender, receiver) = mpsc::channel();
    let (host, port) = (peer.host.clone(), peer.port);
    let started = thread::Builder::new().name("dns".to_owned()).spawn(move || {
        let addresses = (host.as_str(), port).to_socket_addrs();
        let _ = sender.send(addresses.map(Iterator::collect::<Vec<_>>));
    });
    let addresses = match started {
        Ok(_) => receiver.recv_timeout(timeout).unwrap_or_else(|_| {
            Err(io::Error::other(format!("no answer within {} s", timeout.as_secs())))
        }),
        Err(error) => Err(error),
    };
    let Peer { host, variable, .. } = peer;
    let failed = |reason: &str| {
        Verdict::failed(
            "cannot_resolve",
            format!("{host}: {reason}"),
            format!("check the host in {variable}, and this machine's DNS (/etc/resolv.conf)"),
        )
    };
    match addresses {
        Ok(addresses) if addresses.is_empty() => (failed("the host has no address"), Vec::new()),
        Ok(addresses) => (Verdict::passed(found(host, &addresses)), addresses),
        Err(error) => (failed(&error.to_string()), Vec::new()),
    }
}

fn found(host: &str, addresses: &[SocketAddr]) -> String {
    let ips: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    if matches!(&*ips, [ip] if ip == host) {
        return format!("{host} is an address and needs no look-up");
    }
    format!("{host} is {}", ips.join(", "))
}

/// Tries the addresses until one accepts the connection.
#[must_use]
pub fn connect(peer: &Peer, addresses: &[SocketAddr], timeout: Duration) -> Verdict {
    let deadline = Instant::now() + timeout;
    let mut failures = Vec::new();
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let shares = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = (left / shares).max(SHORTEST_TRY);
        match TcpStream::connect_timeout(address, share) {
            Ok(_) => {
                let failed: Vec<_> = failures.iter().map(describe).collect();
                let but = if failed.is_empty() {
                    String::new()
                } else {
                    format!(", but {}", failed.join(", "))
                };
                return Verdict::passed(format!("{address} answers{but}"));
            }
            Err(error) => failures.push((*address, error)),
        }
    }
    refused(peer, &failures)
}

fn describe((address, error): &(SocketAddr, io::Error)) -> String {
    format!("{address}: {error}")
}

/// The verdict on the most specific error: a host that refuses exists, a host that does not respond may not exist.
fn refused(peer: &Peer, failures: &[(SocketAddr, io::Error)]) -> Verdict {
    let any = |kind| failures.iter().any(|(_, error)| error.kind() == kind);
    let Peer { variable, .. } = peer;
    let (code, fix) = if any(io::ErrorKind::ConnectionRefused) {
        ("connection_refused", format!("check host and port in {variable}: nothing listens there"))
    } else if any(io::ErrorKind::TimedOut) {
        (
            "timeout",
            format!(
                "check this machine's network and firewall, and {} if it needs a proxy",
                env_vars::HTTPS_PROXY
            ),
        )
    } else if any(io::ErrorKind::NetworkUnreachable) || any(io::ErrorKind::HostUnreachable) {
        ("unreachable", "check this machine's network and routes (`ip route`)".to_owned())
    } else {
        ("network", format!("check {variable} and this machine's network"))
    };
    let messages: Vec<_> = failures.iter().map(describe).collect();
    Verdict::failed(code, messages.join(", "), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: io::ErrorKind) -> (SocketAddr, io::Error) {
        (SocketAddr::from(([192, 0, 2, 1], 443)), kind.into())
    }

    #[test]
    fn the_most_informative_failure_decides() {
        use io::ErrorKind::{
            ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied, TimedOut,
        };

        let peer = Peer::new("example.com", 443, "URL");
        for (kinds, expected) in [
            (&[ConnectionRefused][..], "connection_refused"),
            (&[TimedOut, NetworkUnreachable, ConnectionRefused], "connection_refused"),
            (&[NetworkUnreachable, TimedOut], "timeout"),
            (&[HostUnreachable], "unreachable"),
            (&[PermissionDenied], "network"),
        ] {
            let failures: Vec<_> = kinds.iter().map(|&kind| failure(kind)).collect();
            let Verdict::Failed { code, message, .. } = refused(&peer, &failures) else {
                panic!("nothing answered");
            };
            assert_eq!(code, expected);
            assert_eq!(message.matches("192.0.2.1:443: ").count(), kinds.len());
        }
    }

    #[test]
    fn an_address_needs_no_look_up() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_eq!(found("127.0.0.1", &[address]), "127.0.0.1 is an address and needs no look-up");
        assert_eq!(found("localhost", &[address]), "localhost is 127.0.0.1");
        assert_eq!(Peer::new("[::1]", 80, "URL").host, "::1");
    }
}
