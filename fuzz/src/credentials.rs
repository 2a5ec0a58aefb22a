//! Any header and any secret: the results equal those of a naive implementation, which ignores timing.

use kiloclaw_check_in::{AcceptedKeys, Credential, GatewaySecrets, Presented, Refusal, bearer};

use super::hmac::{self, hex};

/// Four lines: a secret, `authorization`, the gateway token, the sandbox. A missing line is a missing
/// header.
pub fn credentials(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let secret = lines.next().unwrap_or_default();
    let (authorization, token) = (lines.next(), lines.next());
    let sandbox = lines.next().unwrap_or_default();

    let presented = Presented::from_headers(authorization, token);
    match (naive_bearer(authorization.unwrap_or_default()), presented) {
        (Some(key), Ok(presented)) => {
            assert_eq!((presented.api_key, Some(presented.gateway_token)), (key, token));
            assert!(!presented.gateway_token.is_empty());
        }
        (None, Ok(presented)) => panic!("{presented:?} of {authorization:?}"),
        (key, Err(refusal)) => {
            let missing = match (authorization.unwrap_or_default(), key, token) {
                ("", ..) => Credential::Authorization,
                (_, None, _) => Credential::Bearer,
                (_, _, None | Some("")) => Credential::GatewayToken,
                _ => panic!("nothing is missing: {authorization:?} {token:?}"),
            };
            assert_eq!(refusal, Refusal::MissingCredential(missing));
        }
    }
    assert_eq!(
        bearer(authorization.unwrap_or_default()),
        naive_bearer(authorization.unwrap_or_default())
    );

    keys(secret, authorization.unwrap_or_default());
    tokens(secret, sandbox, token.unwrap_or_default(), data.len());
}

/// Exactly the values of a secret are accepted as API keys.
fn keys(secret: &str, other: &str) {
    let values = values(secret);
    let Ok(keys) = AcceptedKeys::new(secret, &[7; 32]) else {
        return assert_eq!(values, [""; 0]);
    };
    assert!(!values.is_empty());
    for presented in values.iter().copied().chain([secret, other, ""]) {
        assert_eq!(keys.accept(presented), values.contains(&presented), "{presented:?}");
    }
    // Near misses of the first value.
    let first = values.first().copied().unwrap_or_default();
    for almost in [format!("{first}x"), format!("{first}\0"), first.chars().skip(1).collect()] {
        assert_eq!(keys.accept(&almost), values.contains(&&*almost), "{almost:?}");
    }
}

/// Exactly the HMACs of a sandbox's id with each of the secret's values are accepted as gateway tokens.
fn tokens(secret: &str, sandbox: &str, other: &str, at: usize) {
    let values = values(secret);
    let Ok(secrets) = GatewaySecrets::new(secret) else {
        return assert_eq!(values, [""; 0]);
    };
    let rights: Vec<_> = values
        .iter()
        .map(|value| hex(hmac::sha256(value.as_bytes(), sandbox.as_bytes())))
        .collect();
    assert_eq!(Some(secrets.token(sandbox).expose()), rights.first().map(String::as_str));
    assert_eq!(secrets.accept(sandbox, other), rights.iter().any(|right| right == other));
    for right in &rights {
        assert!(secrets.accept(sandbox, right));
        assert!(!secrets.accept(&format!("{sandbox}x"), right));
        let at = at % right.len();
        let (before, rest) = right.split_at(at);
        let (digit, after) = rest.split_at(1);
        for wrong in [
            format!("{before}{after}"),
            format!("{before}{digit}{right}"),
            format!("{before}{}{after}", if digit == "0" { "1" } else { "0" }),
            format!("{before}\0{after}"),
        ] {
            assert!(!secrets.accept(sandbox, &wrong), "{wrong:?}");
        }
    }
}

fn values(secret: &str) -> Vec<&str> {
    secret.split(',').map(str::trim).filter(|value| !value.is_empty()).collect()
}

fn naive_bearer(authorization: &str) -> Option<&str> {
    let scheme = authorization.get(..7)?;
    let token = authorization.get(7..)?.trim();
    (scheme.to_lowercase() == "bearer " && !token.is_empty()).then_some(token)
}
