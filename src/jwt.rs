//! The JWT gate in front of the operators' API: HS256 and nothing else.

use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, new_error};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation};
use kiloclaw_checkin::bearer;
use serde::Deserialize;
use sha2::Sha256;
use signature::Verifier;
use worker::{Env, Request};

use crate::answer::ApiError;
use crate::bindings::Gate;

/// How far the clocks of issuer and Worker may differ, in seconds.
const LEEWAY_SECONDS: u64 = 5;

/// Who passed the gate: the claims that handlers look at.
#[derive(Debug, Deserialize)]
pub(crate) struct Operator {
    /// The token's subject, if it names one.
    pub(crate) sub: Option<String>,
}

/// Lets a request through whose bearer token is signed with `JWT_SECRET` by HS256, has an `exp` that
/// lies ahead and, where `JWT_ISSUER` and `JWT_AUDIENCE` are set, names that issuer and audience.
///
/// 1. the secret is missing or empty → 503: without it the gate is shut
/// 2. there is no bearer token → 401
/// 3. the token does not hold → 401
pub(crate) fn verify(request: &Request, env: &Env) -> Result<Operator, ApiError> {
    // 1.
    let gate = Gate::read(env)?;

    // 2.
    let authorization = request.headers().get("authorization").ok().flatten();
    let token = authorization.as_deref().and_then(bearer).ok_or(ApiError::MissingToken)?;

    // 3.
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = LEEWAY_SECONDS;
    validation.validate_nbf = true;
    validation.validate_aud = gate.audience.is_some();
    let mut required = vec!["exp"];
    if let Some(issuer) = gate.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    if let Some(audience) = gate.audience {
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    let key = DecodingKey::from_secret(gate.secret.as_bytes());
    jsonwebtoken::decode(token, &key, &validation)
        .map(|token| token.claims)
        .map_err(ApiError::InvalidToken)
}

/// Gives `jsonwebtoken` the one algorithm that may be used here.
///
/// Its bundled providers bring RSA and elliptic curves along: 190 kB gzipped that nothing calls.
pub(crate) fn install_crypto() {
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: sign_nothing,
        verifier_factory: hs256,
        key_utils: KeyUtils::new_unimplemented(),
    };
    // It fails only where a provider is installed already: this one.
    let _ = PROVIDER.install_default();
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the provider's signature")]
fn sign_nothing(
    _: &Algorithm,
    _: &EncodingKey,
) -> jsonwebtoken::errors::Result<Box<dyn JwtSigner>> {
    Err(new_error(ErrorKind::UnsupportedAlgorithm))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the provider's signature")]
fn hs256(
    algorithm: &Algorithm,
    key: &DecodingKey,
) -> jsonwebtoken::errors::Result<Box<dyn JwtVerifier>> {
    if *algorithm != Algorithm::HS256 {
        return Err(new_error(ErrorKind::UnsupportedAlgorithm));
    }
    let keyed = Hmac::new_from_slice(key.try_get_as_bytes()?)
        .map_err(|_| new_error(ErrorKind::InvalidKeyFormat))?;
    Ok(Box::new(Hs256(keyed)))
}

struct Hs256(Hmac<Sha256>);

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let mut mac = self.0.clone();
        mac.update(message);
        mac.verify_slice(signature).map_err(signature::Error::from_source)
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}
