//! Any text as an operator's token, and valid tokens that are tampered with.

use base64ct::{Base64UrlUnpadded, Encoding};
use kiloclaw_auth::{AuthMethod, Principal, Token, TokenError, access, jwt};
use serde_json::Value;

use super::hmac;

/// 2026-01-02T03:04:05Z
const NOW: i64 = 1_767_323_045;
const NOW_MS: u64 = NOW as u64 * 1_000;
const LEEWAY: i64 = 5;

/// Six lines: the values of `JWT_SECRET`; the required issuer, or nothing; the audience; a header; claims; and
/// any other token.
pub fn jwt(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let values = line().split(',').map(str::trim).filter(|value| !value.is_empty());
    let secrets: Vec<_> = values.map(str::to_owned).collect();
    let issuer = Some(line().to_owned()).filter(|line| !line.is_empty());
    let settings = jwt::Settings { secrets, issuer, audience: Some(line().to_owned()) };
    let (header, claims, stray) = (line(), line(), line());

    let check = |token: &str| jwt::verify(&settings, token, NOW_MS);

    if check(stray).is_ok() {
        assert!(is_signed(&settings.secrets, stray), "{stray}");
    }
    for secret in &settings.secrets {
        let token = sign(secret, header, claims);
        // A machine's key has fewer requirements than an operator's token, except for a smaller maximum length.
        let is_key = jwt::verify_key(&settings, &token, NOW_MS).is_ok();
        assert!(is_key || check(&token).is_err() || token.len() > 4_096);
        match check(&token) {
            Ok(principal) => {
                assert_eq!(object(header).get("alg").and_then(Value::as_str), Some("HS256"));
                assert_eq!(object(header).get("crit"), None, "{header}");
                is_allowed(&settings, &object(claims), &principal);
                for forged in forgeries(&token, header, claims, data) {
                    let found = check(&forged);
                    assert!(found.is_err(), "{forged} for {token}");
                }
                let other = sign(&format!("{secret}."), header, claims);
                assert!(check(&other).is_err() || is_signed(&settings.secrets, &other));
            }
            Err(bad) => assert_ne!(bad, TokenError::Signature, "{token}"),
        }
    }
    access_claims(&settings, &sign("", header, claims), &object(claims));
}

/// The claims of Access tokens; the runtime has verified their signatures.
fn access_claims(settings: &jwt::Settings, token: &str, claims: &Value) {
    let origin = settings.issuer.clone().unwrap_or_default();
    let team = access::Settings { origin, audience: settings.audience.clone().unwrap_or_default() };
    let Ok(token) = Token::parse(token) else { return };
    let Ok(principal) = access::verify_claims(&team, &token, NOW_MS) else { return };
    is_in_time(claims);
    assert!(is_not_in_the_future(claims.get("iat")), "{claims}");
    assert_eq!(text(claims, "iss"), Some(&*team.origin));
    assert!(includes_audience(claims.get("aud"), &team.audience), "{claims}");
    let custom = claims.get("custom").filter(|custom| !custom.is_null());
    let scopes: Vec<_> = [Some(claims), custom]
        .into_iter()
        .flatten()
        .filter_map(|claims| claims.get("sandbox_id"))
        .map(Value::as_str)
        .collect();
    assert!(scopes.iter().all(|scope| *scope == principal.sandbox.as_deref()), "{claims}");
    assert_eq!(principal.sandbox.is_some(), !scopes.is_empty(), "{claims}");
    assert_eq!(limits(claims), scopes.len(), "{claims}");
    check_sandbox_id(&principal);
    let named = ["email", "common_name", "sub"].map(|name| text(claims, name));
    let named = named.into_iter().flatten().find(|name| !name.is_empty());
    assert_eq!((principal.sub.as_deref(), principal.method), (named, AuthMethod::Access));
}

/// The claims of an accepted HS256 token, and its principal.
fn is_allowed(settings: &jwt::Settings, claims: &Value, principal: &Principal) {
    is_in_time(claims);
    if let Some(issuer) = &settings.issuer {
        assert_eq!(text(claims, "iss"), Some(&**issuer));
    }
    let audience = settings.audience.as_deref().unwrap_or_default();
    assert!(includes_audience(claims.get("aud"), audience), "{claims}");
    match claims.get("sandbox_id") {
        Some(scope) => assert_eq!(scope.as_str(), principal.sandbox.as_deref(), "{claims}"),
        None => assert_eq!(principal.sandbox, None),
    }
    // A `sandbox_id` that is not a string must not count as absent.
    assert_eq!(principal.sandbox.is_some(), claims.get("sandbox_id").is_some(), "{claims}");
    assert_eq!(limits(claims), usize::from(principal.sandbox.is_some()), "{claims}");
    check_sandbox_id(principal);
    assert_eq!(
        (principal.sub.as_deref(), principal.method),
        (text(claims, "sub"), AuthMethod::Jwt)
    );
}

/// Counts claims at any depth whose name is or resembles `sandbox_id`, except within claims that are read as
/// strings.
fn limits(claims: &Value) -> usize {
    match claims {
        Value::Object(claims) => {
            let within = |(name, value): (&String, &Value)| {
                let plain = name.to_lowercase().replace(['_', '-', ' ', '.'], "");
                let is_text = ["email", "common_name", "sandbox_id"].contains(&&**name);
                usize::from(plain == "sandboxid") + if is_text { 0 } else { limits(value) }
            };
            claims.iter().map(within).sum()
        }
        Value::Array(values) => values.iter().map(limits).sum(),
        _ => 0,
    }
}

fn is_in_time(claims: &Value) {
    // Fractions are truncated.
    let exp = claims.get("exp").and_then(Value::as_f64);
    assert!(exp.is_some_and(|exp| exp.trunc() >= (NOW - LEEWAY) as f64), "{claims}");
    assert!(is_not_in_the_future(claims.get("nbf")), "{claims}");
}

fn is_not_in_the_future(time: Option<&Value>) -> bool {
    time.is_none_or(|time| time.as_f64().is_some_and(|time| time.trunc() <= (NOW + LEEWAY) as f64))
}

fn check_sandbox_id(principal: &Principal) {
    assert!(principal.sandbox.as_ref().is_none_or(|id| (1..=96).contains(&id.len())));
}

fn includes_audience(claim: Option<&Value>, audience: &str) -> bool {
    match claim {
        Some(Value::Array(several)) => several.iter().any(|one| one == audience),
        Some(one) => one == audience,
        None => false,
    }
}

fn text<'a>(claims: &'a Value, name: &str) -> Option<&'a str> {
    claims.get(name).and_then(Value::as_str)
}

fn object(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_default()
}

/// Variations of a token that no secret has signed.
fn forgeries(token: &str, header: &str, claims: &str, data: &[u8]) -> Vec<String> {
    let part = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
    let (message, signature) = token.rsplit_once('.').unwrap_or_default();
    let (head, body) = message.split_once('.').unwrap_or_default();
    let mut forgeries = vec![
        format!("{message}."),
        message.to_owned(),
        format!("{token}."),
        format!("{token}="),
        format!(".{token}"),
        format!("{head}.{}.{signature}", part(&format!("{claims} "))),
        format!("{}.{body}.{signature}", part(&format!("{header} "))),
        format!("{}.{body}.", part(r#"{"alg":"none"}"#)),
        format!("{}.{body}.{signature}", part(r#"{"alg":"none"}"#)),
        format!("{}.{body}.{signature}", part(r#"{"alg":"HS384"}"#)),
        format!("{message}.{}", signature.get(1..).unwrap_or_default()),
        format!("{message}.{signature}AAAA"),
    ];
    // One changed character, at a place that the input chooses.
    let sum = data.iter().fold(data.len(), |sum, byte| sum.wrapping_mul(31) ^ usize::from(*byte));
    let at = sum % token.len();
    for other in
        ["A", "B", "g", "_", ".", "="].into_iter().filter(|it| token.get(at..=at) != Some(it))
    {
        let (before, after) = (token.get(..at), token.get(at + 1..));
        forgeries.push([before, Some(other), after].into_iter().flatten().collect());
    }
    forgeries
}

fn sign(secret: &str, header: &str, claims: &str) -> String {
    let [header, claims] =
        [header, claims].map(|part| Base64UrlUnpadded::encode_string(part.as_bytes()));
    let message = format!("{header}.{claims}");
    let signature = hmac::sha256(secret.as_bytes(), message.as_bytes());
    format!("{message}.{}", Base64UrlUnpadded::encode_string(&signature))
}

fn is_signed(secrets: &[String], token: &str) -> bool {
    let Some((message, signature)) = token.rsplit_once('.') else { return false };
    secrets.iter().any(|secret| {
        let right = hmac::sha256(secret.as_bytes(), message.as_bytes());
        Base64UrlUnpadded::encode_string(&right) == signature
    })
}
