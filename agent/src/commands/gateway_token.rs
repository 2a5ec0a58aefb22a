//! `kiloclaw-agent gateway-token`: derives a sandbox's token, to provision its machine.

use std::io::{self, IsTerminal};

use kiloclaw_check_in::{EmptySecret, GatewaySecrets, GatewayToken};

use crate::cli::GatewayTokenArguments;
use crate::config::{ConfigError, check_sandbox_id};
use crate::env_vars;
use crate::exit::Exit;
use crate::output;
use crate::secret::Secret;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{0}")]
    Sandbox(#[from] ConfigError),
    #[error("cannot read the secret from standard input: {0}")]
    Read(#[from] io::Error),
    #[error(
        "the secret is empty: set {} or pass it on standard input",
        env_vars::GATEWAY_TOKEN_SECRET
    )]
    Empty(#[from] EmptySecret),
}

#[must_use]
pub fn run(arguments: &GatewayTokenArguments) -> Exit {
    match token(arguments) {
        Ok(token) => output::print_result(token.expose()),
        Err(error) => output::bad_configuration(&error.to_string()),
    }
}

fn token(arguments: &GatewayTokenArguments) -> Result<GatewayToken, TokenError> {
    // Validated first, since reading standard input may wait.
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
