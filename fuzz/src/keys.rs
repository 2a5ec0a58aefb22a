//! The key set of a team's Access, over any sequence of requests, fetches and failures.

use kiloclaw_auth::{Key, KeySet, Lookup, MissingKey};

type Milliseconds = u64;

const SECOND: Milliseconds = 1_000;
const HOUR: Milliseconds = 3_600 * SECOND;
const URLS: [&str; 2] = ["https://a.example/certs", "https://b.example/certs"];

/// The past events on which the rules of docs/api.md depend.
#[derive(Default)]
struct History {
    url: Option<usize>,
    /// The ids of the last successful fetch, as bits, and its time.
    fetched: Option<(u8, Milliseconds)>,
    /// Start of the fetch in progress.
    fetching: Option<Milliseconds>,
    /// Time of the last fetch for an unknown id while the keys were still fresh.
    extra: Option<Milliseconds>,
}

/// Three bytes per step: the event, the keys, and the time since the step before.
pub fn jwks(data: &[u8]) {
    let mut keys = KeySet::default();
    let mut history = History::default();
    let mut now: Milliseconds = 1_800_000_000_000;
    for step in data.chunks_exact(3) {
        let [what, which, after] = *step else { return };
        // From a millisecond to a day, and values next to the limits.
        now += match after % 8 {
            0 => 0,
            1 => 1,
            2 => u64::from(after),
            3 => SECOND * u64::from(after / 8),
            4 => 30 * SECOND - 1,
            5 => HOUR - 1,
            6 => 24 * HOUR - u64::from(after / 8),
            _ => 6 * SECOND - 1,
        };
        let url = usize::from(what >> 7);
        if what.is_multiple_of(2) {
            look_up(&mut keys, &mut history, url, which % 8, now);
        } else {
            settle(&mut keys, &mut history, url, (what & 4 == 0).then_some(which), now);
        }
    }
}

fn key(kid: u8) -> Key {
    Key { kid: kid.to_string(), n: format!("n{kid}"), e: "AQAB".to_owned() }
}

fn look_up(keys: &mut KeySet, history: &mut History, url: usize, kid: u8, now: Milliseconds) {
    if history.url != Some(url) {
        *history = History { url: Some(url), ..History::default() };
    }
    let next = keys.look_up(URLS[url], &kid.to_string(), now);
    let age = history.fetched.map(|(_, at)| now - at);
    let known = history.fetched.filter(|_| age < Some(24 * HOUR)).map_or(0, |(known, _)| known);
    let is_known = known >> kid & 1 == 1;
    match next {
        Lookup::Use(found) => {
            assert_eq!(found, key(kid));
            assert!(is_known, "{kid} after {age:?}");
        }
        Lookup::Fetch => {
            let busy = history.fetching.is_some_and(|since| now - since < 6 * SECOND);
            assert!(!busy, "only one request fetches");
            if age.is_some_and(|age| age < HOUR) {
                assert!(!is_known, "the key is known and fresh");
                assert!(history.extra.is_none_or(|last| now - last >= 30 * SECOND));
                history.extra = Some(now);
            }
            history.fetching = Some(now);
        }
        Lookup::Wait => assert!(!is_known && history.fetching.is_some()),
        Lookup::Missing(missing) => {
            assert!(!is_known);
            assert!(missing != MissingKey::Unknown || age < Some(HOUR), "the keys are stale");
        }
    }
}

fn settle(
    keys: &mut KeySet,
    history: &mut History,
    url: usize,
    fetched: Option<u8>,
    now: Milliseconds,
) {
    let found = |known: u8| (0..8).filter(|kid| known >> kid & 1 == 1).map(key).collect();
    keys.settle(URLS[url], fetched.map(found).ok_or_else(|| "down".to_owned()), now);
    if history.url == Some(url) {
        history.fetching = None;
        history.fetched = fetched.map(|known| (known, now)).or(history.fetched);
    }
}
