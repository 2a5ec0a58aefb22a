//! The keys of a team's Access: which are known, and when they are fetched.
//!
//! They are kept in memory, by each isolate for itself. A key that is new is fetched when a token first
//! names it, and one that is gone is forgotten with the next fetch.

/// A point in time or a duration, in milliseconds.
type Milliseconds = u64;

/// How long keys are used before they are fetched again.
const FRESH: Milliseconds = 60 * 60 * 1_000;

/// How long they are used if they cannot be: a key may have been withdrawn meanwhile.
const USABLE: Milliseconds = 24 * FRESH;

/// How often a key that is not known makes the others be fetched again: anybody can name one.
const UNKNOWN_PAUSE: Milliseconds = 30_000;

/// How long to wait after a fetch that failed, while there are keys to go on with.
const STALE_PAUSE: Milliseconds = 30_000;

/// The same, without any: then nobody gets in.
const RETRY_PAUSE: Milliseconds = 5_000;

/// A fetch that has not ended by then never will: the request that it was for was cancelled.
const ABANDONED: Milliseconds = 6_000;

/// A public RSA key, for RS256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) kid: String,
    pub(crate) n: String,
    pub(crate) e: String,
}

/// Why there is no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The team has no such key.
    Unknown,
    /// The team's keys cannot be fetched, for this reason.
    Unavailable(String),
}

/// What is known of a set of keys.
#[derive(Default)]
pub(crate) struct Keys {
    url: String,
    known: Vec<Key>,
    /// When they were fetched last.
    fetched: Option<Milliseconds>,
    /// When a fetch failed and why, unless one has succeeded since.
    failed: Option<(Milliseconds, String)>,
    /// When a key that is not known last made them be fetched.
    missed: Option<Milliseconds>,
    /// Since when a request fetches them.
    fetching: Option<Milliseconds>,
}

/// What to do about a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Use(Key),
    /// Fetch the set, then [settle](Keys::settle) and ask again.
    Fetch,
    /// Another request fetches the set: ask again soon.
    Wait,
    Miss(Missing),
}

impl Keys {
    pub(crate) fn next(&mut self, url: &str, kid: &str, now: Milliseconds) -> Next {
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
                Next::Fetch
            }
            (Some(key), _) => Next::Use(key.clone()),
            _ if is_busy => Next::Wait,
            (None, Some((_, reason))) => Next::Miss(Missing::Unavailable(reason.clone())),
            (None, None) => Next::Miss(Missing::Unknown),
        }
    }

    pub(crate) fn settle(
        &mut self,
        url: &str,
        fetched: Result<Vec<Key>, String>,
        now: Milliseconds,
    ) {
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

    fn unavailable(reason: &str) -> Next {
        Next::Miss(Missing::Unavailable(reason.to_owned()))
    }

    const UNKNOWN: Next = Next::Miss(Missing::Unknown);

    /// Keys of which `a` was fetched at `NOW`.
    fn fetched() -> Keys {
        let mut keys = Keys::default();
        assert_eq!(keys.next(URL, "a", NOW), Next::Fetch);
        keys.settle(URL, Ok(vec![key("a")]), NOW);
        keys
    }

    #[test]
    fn keys_are_used_for_an_hour_and_then_fetched_again() {
        let mut keys = fetched();
        assert_eq!(keys.next(URL, "a", NOW + FRESH - 1), Next::Use(key("a")));
        assert_eq!(keys.next(URL, "a", NOW + FRESH), Next::Fetch);
        assert_eq!(keys.next(URL, "a", NOW + FRESH), Next::Use(key("a")), "by others meanwhile");
        keys.settle(URL, Ok(vec![key("b")]), NOW + FRESH);
        assert_eq!(keys.next(URL, "b", NOW + FRESH), Next::Use(key("b")));
    }

    #[test]
    fn a_key_that_is_new_is_fetched_at_once_and_one_that_is_gone_is_gone() {
        let mut keys = fetched();
        assert_eq!(keys.next(URL, "b", NOW + 1), Next::Fetch);
        keys.settle(URL, Ok(vec![key("b")]), NOW + 2);
        assert_eq!(keys.next(URL, "b", NOW + 2), Next::Use(key("b")));
        assert_eq!(keys.next(URL, "a", NOW + 2), UNKNOWN);
    }

    #[test]
    fn made_up_ids_fetch_once_in_30_seconds() {
        let mut keys = fetched();
        assert_eq!(keys.next(URL, "x", NOW), Next::Fetch);
        keys.settle(URL, Ok(vec![key("a")]), NOW);
        for (kid, at) in [("x", 0), ("y", 1), ("z", 30 * SECOND - 1)] {
            assert_eq!(keys.next(URL, kid, NOW + at), UNKNOWN);
        }
        assert_eq!(keys.next(URL, "z", NOW + 30 * SECOND), Next::Fetch);
    }

    #[test]
    fn without_keys_it_tries_again_soon() {
        let mut keys = Keys::default();
        assert_eq!(keys.next(URL, "a", NOW), Next::Fetch);
        keys.settle(URL, Err("down".to_owned()), NOW);
        assert_eq!(keys.next(URL, "a", NOW + RETRY_PAUSE - 1), unavailable("down"));
        assert_eq!(keys.next(URL, "a", NOW + RETRY_PAUSE), Next::Fetch);
        keys.settle(URL, Ok(vec![key("a")]), NOW + RETRY_PAUSE);
        assert_eq!(keys.next(URL, "a", NOW + RETRY_PAUSE), Next::Use(key("a")));
        assert_eq!(
            keys.next(URL, "x", NOW + RETRY_PAUSE),
            Next::Fetch,
            "that pause was another one"
        );
        keys.settle(URL, Ok(vec![key("a")]), NOW + RETRY_PAUSE);
        assert_eq!(keys.next(URL, "x", NOW + RETRY_PAUSE), UNKNOWN, "the failure is over");
    }

    #[test]
    fn keys_that_cannot_be_fetched_again_are_used_for_a_day() {
        let mut keys = fetched();
        let mut at = NOW + FRESH;
        let mut fetches = 0;
        while at < NOW + USABLE {
            if keys.next(URL, "a", at) == Next::Fetch {
                fetches += 1;
                keys.settle(URL, Err("down".to_owned()), at);
            }
            assert_eq!(keys.next(URL, "a", at), Next::Use(key("a")));
            assert_eq!(keys.next(URL, "b", at), unavailable("down"), "it may be a new one");
            at += 10 * SECOND;
        }
        assert_eq!(fetches, 23 * 60 * 2, "every 30 seconds");
        assert_eq!(keys.next(URL, "a", NOW + USABLE + RETRY_PAUSE), Next::Fetch);
        keys.settle(URL, Err("down".to_owned()), NOW + USABLE + RETRY_PAUSE);
        assert_eq!(keys.next(URL, "a", NOW + USABLE + RETRY_PAUSE), unavailable("down"));
    }

    #[test]
    fn one_request_fetches_and_the_others_wait_for_it() {
        let mut keys = Keys::default();
        assert_eq!(keys.next(URL, "a", NOW), Next::Fetch);
        assert_eq!(keys.next(URL, "a", NOW + ABANDONED - 1), Next::Wait);
        assert_eq!(keys.next(URL, "a", NOW + ABANDONED), Next::Fetch, "it was cancelled");
        keys.settle(URL, Ok(vec![key("a")]), NOW + ABANDONED);
        assert_eq!(keys.next(URL, "a", NOW + ABANDONED), Next::Use(key("a")));
    }

    #[test]
    fn another_teams_keys_are_not_its_own() {
        let mut keys = fetched();
        assert_eq!(keys.next("https://other.example", "a", NOW), Next::Fetch);
        keys.settle(URL, Ok(vec![key("a")]), NOW);
        assert_eq!(
            keys.next("https://other.example", "a", NOW),
            Next::Wait,
            "that was the first team's"
        );
    }
}
