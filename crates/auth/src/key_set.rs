//! The public keys of an Access team: which are known, and when to fetch them.
//!
//! Each isolate keeps the keys in memory. It fetches a new key when a token first names it, and forgets a withdrawn key
//! with the next fetch.

/// A point in time or a duration, in milliseconds.
type Milliseconds = u64;

/// How long fetched keys are fresh.
const FRESH: Milliseconds = 60 * 60 * 1_000;

/// How long keys are used if they cannot be fetched again: a key may have been withdrawn meanwhile.
const USABLE: Milliseconds = 24 * FRESH;

/// Minimum interval between refetches triggered by an unknown `kid`; anyone can invent one.
const UNKNOWN_PAUSE: Milliseconds = 30_000;

/// Pause after a failed fetch while some known keys are usable.
const STALE_PAUSE: Milliseconds = 30_000;

/// Pause after a failed fetch without any usable key, when nobody can sign in.
const RETRY_PAUSE: Milliseconds = 5_000;

/// A fetch that takes longer counts as abandoned: its request was cancelled.
const ABANDONED: Milliseconds = 6_000;

/// A public RSA key, for RS256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The key's id.
    pub kid: String,
    /// The modulus, in base64url.
    pub n: String,
    /// The exponent, in base64url.
    pub e: String,
}

/// Why a key is not available.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MissingKey {
    /// The team has no such key.
    Unknown,
    /// Fetching the team's keys failed.
    Unavailable(String),
}

/// The keys of one team, and the state of fetching them.
#[derive(Default)]
pub struct KeySet {
    url: String,
    known: Vec<Key>,
    /// The last successful fetch.
    fetched: Option<Milliseconds>,
    /// The last failed fetch and its reason, unless a later one succeeded.
    failed: Option<(Milliseconds, String)>,
    /// The last fetch that an unknown `kid` triggered.
    missed: Option<Milliseconds>,
    /// The start of the fetch that is under way.
    fetching: Option<Milliseconds>,
}

/// What to do for a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Verify with this key.
    Use(Key),
    /// Fetch the set, [settle](KeySet::settle) the result and look up again.
    Fetch,
    /// Another request fetches the set: look up again soon.
    Wait,
    /// There is no such key.
    Missing(MissingKey),
}

impl KeySet {
    /// Looks up a key by its id. A new `url` means another team and starts over.
    pub fn look_up(&mut self, url: &str, kid: &str, now: Milliseconds) -> Lookup {
        if self.url != url {
            *self = Self { url: url.to_owned(), ..Self::default() };
        }
        let within = |span, since: Option<Milliseconds>| {
            since.is_some_and(|since| now.saturating_sub(since) < span)
        };
        if !within(USABLE, self.fetched) {
            self.known.clear();
        }
        let key = self.known.iter().find(|key| key.kid == kid);
        let is_fresh = within(FRESH, self.fetched);
        let is_busy = within(ABANDONED, self.fetching);
        let is_due = if is_fresh {
            key.is_none() && !within(UNKNOWN_PAUSE, self.missed)
        } else {
            let pause = if self.known.is_empty() { RETRY_PAUSE } else { STALE_PAUSE };
            !within(pause, self.failed.as_ref().map(|(at, _)| *at))
        };
        match (key, &self.failed) {
            _ if is_due && !is_busy => {
                self.fetching = Some(now);
                if is_fresh {
                    self.missed = Some(now);
                }
                Lookup::Fetch
            }
            (Some(key), _) => Lookup::Use(key.clone()),
            _ if is_busy => Lookup::Wait,
            (None, Some((_, reason))) => Lookup::Missing(MissingKey::Unavailable(reason.clone())),
            (None, None) => Lookup::Missing(MissingKey::Unknown),
        }
    }

    /// Stores the result of a fetch.
    pub fn settle(&mut self, url: &str, fetched: Result<Vec<Key>, String>, now: Milliseconds) {
        if self.url != url {
            return;
        }
        self.fetching = None;
        match fetched {
            Ok(keys) => {
                self.known = keys;
                self.fetched = Some(now);
                self.failed = None;
            }
            Err(reason) => self.failed = Some((now, reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://team.cloudflareaccess.com/cdn-cgi/access/certs";
    const SECOND: Milliseconds = 1_000;
    /// Any time of day.
    const NOW: Milliseconds = 1_800_000_000_000;

    fn key(kid: &str) -> Key {
        Key { kid: kid.to_owned(), n: "n".to_owned(), e: "e".to_owned() }
    }

    fn unavailable(reason: &str) -> Lookup {
        Lookup::Missing(MissingKey::Unavailable(reason.to_owned()))
    }

    const UNKNOWN: Lookup = Lookup::Missing(MissingKey::Unknown);

    /// Keys of which `a` was fetched at `NOW`.
    fn fetched() -> KeySet {
        let mut keys = KeySet::default();
        assert_eq!(keys.look_up(URL, "a", NOW), Lookup::Fetch);
        keys.settle(URL, Ok(vec![key("a")]), NOW);
        keys
    }

    #[test]
    fn keys_are_used_for_an_hour_and_then_fetched_again() {
        let mut keys = fetched();
        assert_eq!(keys.look_up(URL, "a", NOW + FRESH - 1), Lookup::Use(key("a")));
        assert_eq!(keys.look_up(URL, "a", NOW + FRESH), Lookup::Fetch);
        assert_eq!(
            keys.look_up(URL, "a", NOW + FRESH),
            Lookup::Use(key("a")),
            "by others meanwhile"
        );
        keys.settle(URL, Ok(vec![key("b")]), NOW + FRESH);
        assert_eq!(keys.look_up(URL, "b", NOW + FRESH), Lookup::Use(key("b")));
    }

    #[test]
    fn a_new_key_is_fetched_at_once_and_a_withdrawn_key_is_forgotten() {
        let mut keys = fetched();
        assert_eq!(keys.look_up(URL, "b", NOW + 1), Lookup::Fetch);
        keys.settle(URL, Ok(vec![key("b")]), NOW + 2);
        assert_eq!(keys.look_up(URL, "b", NOW + 2), Lookup::Use(key("b")));
        assert_eq!(keys.look_up(URL, "a", NOW + 2), UNKNOWN);
    }

    #[test]
    fn made_up_ids_fetch_once_in_30_seconds() {
        let mut keys = fetched();
        assert_eq!(keys.look_up(URL, "x", NOW), Lookup::Fetch);
        keys.settle(URL, Ok(vec![key("a")]), NOW);
        for (kid, at) in [("x", 0), ("y", 1), ("z", 30 * SECOND - 1)] {
            assert_eq!(keys.look_up(URL, kid, NOW + at), UNKNOWN);
        }
        assert_eq!(keys.look_up(URL, "z", NOW + 30 * SECOND), Lookup::Fetch);
    }

    #[test]
    fn a_failed_fetch_without_keys_is_retried_soon() {
        let mut keys = KeySet::default();
        assert_eq!(keys.look_up(URL, "a", NOW), Lookup::Fetch);
        keys.settle(URL, Err("down".to_owned()), NOW);
        assert_eq!(keys.look_up(URL, "a", NOW + RETRY_PAUSE - 1), unavailable("down"));
        assert_eq!(keys.look_up(URL, "a", NOW + RETRY_PAUSE), Lookup::Fetch);
        keys.settle(URL, Ok(vec![key("a")]), NOW + RETRY_PAUSE);
        assert_eq!(keys.look_up(URL, "a", NOW + RETRY_PAUSE), Lookup::Use(key("a")));
        assert_eq!(
            keys.look_up(URL, "x", NOW + RETRY_PAUSE),
            Lookup::Fetch,
            "a failed fetch has a pause of its own"
        );
        keys.settle(URL, Ok(vec![key("a")]), NOW + RETRY_PAUSE);
        assert_eq!(keys.look_up(URL, "x", NOW + RETRY_PAUSE), UNKNOWN, "the failure is over");
    }

    #[test]
    fn keys_that_cannot_be_fetched_again_are_used_for_a_day() {
        let mut keys = fetched();
        let mut at = NOW + FRESH;
        let mut fetches = 0;
        while at < NOW + USABLE {
            if keys.look_up(URL, "a", at) == Lookup::Fetch {
                fetches += 1;
                keys.settle(URL, Err("down".to_owned()), at);
            }
            assert_eq!(keys.look_up(URL, "a", at), Lookup::Use(key("a")));
            assert_eq!(keys.look_up(URL, "b", at), unavailable("down"), "it may be a new one");
            at += 10 * SECOND;
        }
        assert_eq!(fetches, 23 * 60 * 2, "every 30 seconds");
        assert_eq!(keys.look_up(URL, "a", NOW + USABLE + RETRY_PAUSE), Lookup::Fetch);
        keys.settle(URL, Err("down".to_owned()), NOW + USABLE + RETRY_PAUSE);
        assert_eq!(keys.look_up(URL, "a", NOW + USABLE + RETRY_PAUSE), unavailable("down"));
    }

    #[test]
    fn one_request_fetches_and_the_others_wait_for_it() {
        let mut keys = KeySet::default();
        assert_eq!(keys.look_up(URL, "a", NOW), Lookup::Fetch);
        assert_eq!(keys.look_up(URL, "a", NOW + ABANDONED - 1), Lookup::Wait);
        assert_eq!(keys.look_up(URL, "a", NOW + ABANDONED), Lookup::Fetch, "it was cancelled");
        keys.settle(URL, Ok(vec![key("a")]), NOW + ABANDONED);
        assert_eq!(keys.look_up(URL, "a", NOW + ABANDONED), Lookup::Use(key("a")));
    }

    #[test]
    fn another_team_starts_without_keys() {
        let mut keys = fetched();
        assert_eq!(keys.look_up("https://other.example", "a", NOW), Lookup::Fetch);
        keys.settle(URL, Ok(vec![key("a")]), NOW);
        assert_eq!(
            keys.look_up("https://other.example", "a", NOW),
            Lookup::Wait,
            "that was the first team's"
        );
    }
}
