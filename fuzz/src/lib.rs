//! What must hold for whatever strangers, machines, operators and Analytics Engine send to the Worker.
//! Shared by the fuzz targets and by `tests/fuzz_seeds.rs`.

mod body;
mod credentials;
mod hmac;
mod keys;
mod questions;
mod tokens;

pub use body::body;
pub use credentials::credentials;
pub use keys::jwks;
pub use questions::{answers, parameters};
pub use tokens::jwt;

// The Worker is a cdylib, which nothing can link to, and with an rlib beside it Cargo would build it
// without LTO. So its sources that need no runtime are compiled in here, and what they name of the rest
// of the Worker stands below.
#[allow(dead_code, reason = "the clock is the runtime's")]
#[path = "../../src/jwt.rs"]
pub(crate) mod jwt;

#[path = "../../src/jwks.rs"]
pub(crate) mod jwks;

/// As in `src/bindings.rs`, without the bindings.
pub(crate) mod bindings {
    pub(crate) struct Jwt {
        pub(crate) secrets: Vec<String>,
        pub(crate) issuer: Option<String>,
        pub(crate) audience: String,
    }

    pub(crate) struct Access {
        pub(crate) origin: String,
        pub(crate) audience: String,
    }
}

/// As in `src/gate.rs`, without the gate.
pub(crate) mod gate {
    #[derive(Debug)]
    pub(crate) struct Operator {
        pub(crate) sub: Option<String>,
        pub(crate) sandbox: Option<String>,
        pub(crate) via: Via,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(crate) enum Via {
        Jwt,
        Access,
    }
}
