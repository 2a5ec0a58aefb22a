//! `kiloclaw-agent gateway-token`: derives a sandbox's token, for whoever provisions its machine.

use std::io::{self, IsTerminal};

use kiloclaw_check_in::{EmptySecret, GatewaySecrets, GatewayToken};

use crate::cli::GatewayTokenArguments;
use crate::config::{ConfigError, check_sandbox_id};
use crate::env_vars;
use crate::exit::Exit;
use crate::output;
use crate::secret::Secret;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The id is not valid.
    #[error("{0}")]
    Sandbox(#[from] ConfigError),
    #[error("cannot read the secret from standard input: {0}")]
    Read(#[from] io::Error),
    /// The secret is empty.
    #[error(
        "the secret is empty: set {} or pass it on standard input",
        env_vars::GATEWAY_TOKEN_SECRET
    )]
    Empty(#[from] EmptySecret),
}

/// Prints only the token, in one line.
#[must_use]
pub fn run(arguments: &GatewayTokenArguments) -> Exit {
    match token(arguments) {
        Ok(token) => output::print_result(token.expose()),
        Err(error) => output::bad_configuration(&error.to_string()),
    }
}

fn token(arguments: &GatewayTokenArguments) -> Result<GatewayToken, TokenError> {
    // Before it waits for a secret on standard input.
    check_sandbox_id(&arguments.sandbox_id)?;
    let secret = match &arguments.gateway_token_secret {
        Some(secret) => secret.clone(),
        None => from_standard_input()?,
    };
    Ok(GatewaySecrets::new(secret.expose())?.token(&arguments.sandbox_id))
}

fn from_standard_input() -> io::Result<Secret> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        output::warn("reading the secret from standard input; it will show as you type");
    }
    Ok(Secret::new(&io::read_to_string(stdin)?))
}
