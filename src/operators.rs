//! The operators' API: questions about the fleet, answered over Analytics Engine's SQL.
//!
//! A handler makes a question of a request, asks, and answers in JSON. What is asked again within
//! [`FRESH`] seconds is answered from the Cache API, where there is one.

use std::hash::{DefaultHasher, Hash, Hasher};

use kiloclaw_fleet::{
    Asked, FleetQuestion, HistoryQuestion, IncidentsQuestion, InvalidParameter, Next, Parameters,
    Question, SandboxQuestion, SandboxesQuestion, Time,
};
use serde_json::json;
use worker::js_sys::{self, Promise};
use worker::wasm_bindgen::prelude::*;
use worker::wasm_bindgen_futures::JsFuture;
use worker::{Date, Request, Response, console_warn};

use crate::Context;
use crate::analytics::{Analytics, Unanswered};
use crate::answer::{self, ApiError};
use crate::bindings::Unusable;
use crate::gate::Operator;

#[wasm_bindgen(module = "/src/operators.js")]
extern "C" {
    #[wasm_bindgen(js_name = parameters)]
    fn parameters_of(url: &str) -> Vec<String>;

    fn cached(key: &str) -> Promise;

    fn keep(key: &str, body: &str, made_at: &str, fresh: &str) -> Promise;

    /// What [`cached`] resolves to.
    type Cached;

    #[wasm_bindgen(method, getter)]
    fn body(this: &Cached) -> String;

    #[wasm_bindgen(method, getter, js_name = madeAt)]
    fn made_at(this: &Cached) -> String;
}

/// How long an answer is good for, in seconds.
const FRESH: u64 = 15;

/// What a query is answered before there is a dataset.
const NO_ROWS: &str = r#"{"data":[]}"#;

/// The first field of a report before there is a dataset.
const NO_CHECK_INS_YET: &str = r#""noCheckInsYet":true,"#;

/// What the log says of that: it may be a mistake.
const NO_DATASET: &str = "Analytics Engine has no dataset kiloclaw_controller_telemetry: it begins with the \
     first check-in. If there were check-ins, AE_ACCOUNT_ID or AE_SQL_URL names another account";

/// The description of the API, for programs.
const OPENAPI: &str = include_str!("openapi.json");

/// Why a question has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A parameter cannot be used.
    InvalidParameter(InvalidParameter),
    /// What is needed to ask Analytics Engine is not set.
    NotConfigured(Unusable),
    /// The sandbox was not seen within the window.
    UnknownSandbox,
    /// The operator may not see this sandbox.
    OtherSandbox,
    /// Analytics Engine does not answer.
    Unanswered(Unanswered),
}

impl Failure {
    /// What the log says beyond the code.
    pub(crate) fn detail(&self) -> Option<String> {
        match self {
            Self::InvalidParameter(invalid) => Some(invalid.name.clone()),
            Self::NotConfigured(unusable) => Some(unusable.to_string()),
            Self::Unanswered(Unanswered::Unreachable(reason) | Unanswered::Unexpected(reason)) => {
                Some(reason.clone())
            }
            Self::Unanswered(Unanswered::Refused { status, reason }) => {
                Some(format!("{status}: {reason}"))
            }
            Self::Unanswered(
                Unanswered::Limited { .. } | Unanswered::Timeout | Unanswered::TooLarge,
            )
            | Self::UnknownSandbox
            | Self::OtherSandbox => None,
        }
    }
}

impl From<InvalidParameter> for ApiError {
    fn from(invalid: InvalidParameter) -> Self {
        Self::Reading(Failure::InvalidParameter(invalid))
    }
}

impl From<Unanswered> for ApiError {
    fn from(unanswered: Unanswered) -> Self {
        Self::Reading(Failure::Unanswered(unanswered))
    }
}

/// `GET /api/openapi.json`: what can be asked.
pub(crate) async fn openapi(
    request: Request,
    _: Context,
    _: Operator,
) -> Result<Response, ApiError> {
    only_get(&request)?;
    Ok(answer::json_text(OPENAPI, "no-store")?)
}

/// What can be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Endpoint {
    /// `GET /api/fleet`: the state of the fleet at a glance.
    Fleet,
    /// `GET /api/sandboxes`: the latest state of each sandbox.
    Sandboxes,
    /// `GET /api/sandboxes/{sandboxId}`: one sandbox.
    Sandbox,
    /// `GET /api/sandboxes/{sandboxId}/history`: one sandbox over time.
    History,
    /// `GET /api/incidents`: what an operator should look at.
    Incidents,
}

/// Answers a question.
pub(crate) async fn answer(
    endpoint: Endpoint,
    request: Request,
    context: Context,
    operator: Operator,
) -> Result<Response, ApiError> {
    let call = Call::new(&request, &context, &operator)?;
    let question = call.question(endpoint)?;
    call.answer(question).await
}

fn only_get(request: &Request) -> Result<(), ApiError> {
    // Not `request.method()`: that reads a method it does not know as GET.
    match request.inner().method().as_str() {
        "GET" | "HEAD" => Ok(()),
        _ => Err(ApiError::MethodNotAllowed("GET, HEAD")),
    }
}

/// A request that came through the gate.
struct Call<'a> {
    request: &'a Request,
    context: &'a Context,
    operator: &'a Operator,
    parameters: Parameters,
    now: Time,
}

impl<'a> Call<'a> {
    fn new(
        request: &'a Request,
        context: &'a Context,
        operator: &'a Operator,
    ) -> Result<Self, ApiError> {
        only_get(request)?;
        let flat = parameters_of(&request.inner().url());
        let (pairs, _) = flat.as_chunks();
        let parameters = Parameters::new(pairs.iter().cloned().map(<(String, String)>::from));
        let now = Time(Date::now().as_millis() / 1_000);
        Ok(Self { request, context, operator, parameters, now })
    }

    fn question(&self, endpoint: Endpoint) -> Result<Box<dyn Question + 'a>, ApiError> {
        let parameters = &self.parameters;
        let asked = Asked { now: self.now, only: self.operator.sandbox.as_deref() };
        Ok(match endpoint {
            Endpoint::Fleet => Box::new(FleetQuestion::new(parameters, asked)?),
            Endpoint::Sandboxes => Box::new(SandboxesQuestion::new(parameters, asked)?),
            Endpoint::Sandbox => {
                Box::new(SandboxQuestion::new(&self.sandbox()?, parameters, self.now)?)
            }
            Endpoint::History => {
                Box::new(HistoryQuestion::new(&self.sandbox()?, parameters, self.now)?)
            }
            Endpoint::Incidents => Box::new(IncidentsQuestion::new(parameters, asked)?),
        })
    }

    /// The sandbox that the path names, if the operator may see it.
    fn sandbox(&self) -> Result<String, ApiError> {
        let encoded = self.context.param("sandboxId").map(String::as_str).unwrap_or_default();
        let decoded = js_sys::decode_uri_component(encoded).map_err(|_| ApiError::NotFound)?;
        let sandbox = String::from(decoded);
        match &self.operator.sandbox {
            Some(only) if *only != sandbox => Err(ApiError::Reading(Failure::OtherSandbox)),
            _ => Ok(sandbox),
        }
    }

    /// Answers from the cache, or asks and puts the answer there.
    async fn answer(&self, question: Box<dyn Question + '_>) -> Result<Response, ApiError> {
        let analytics = Analytics::read(&self.context.env)
            .map_err(|unusable| ApiError::Reading(Failure::NotConfigured(unusable)))?;
        let key = self.cache_key(&analytics);
        let found = JsFuture::from(cached(&key)).await.unwrap_or_default();
        if !found.is_undefined() {
            let found: Cached = found.unchecked_into();
            let age = self.now.since(Time(found.made_at().parse().unwrap_or_default()));
            if age < FRESH {
                return self.respond(&found.body(), FRESH - age);
            }
        }
        let body = Self::ask(&analytics, question).await?;
        let body = body.ok_or(ApiError::Reading(Failure::UnknownSandbox))?;
        let kept = keep(&key, &body, &self.now.0.to_string(), &FRESH.to_string());
        // Rejected for nothing: an answer that cannot be kept is an answer all the same.
        drop(JsFuture::from(kept).await);
        self.respond(&body, FRESH)
    }

    /// Asks Analytics Engine. Before the first check-in, the answer is that of an empty fleet and says so.
    async fn ask(
        analytics: &Analytics,
        mut question: Box<dyn Question + '_>,
    ) -> Result<Option<String>, Unanswered> {
        let mut queries = question.queries();
        let mut has_dataset = true;
        let reply = loop {
            let count = queries.len();
            let answers = analytics.ask(queries).await?;
            has_dataset &= answers.is_some();
            let answers = answers.unwrap_or_else(|| vec![NO_ROWS.to_owned(); count]);
            let next = question.read(&answers).map_err(|unexpected| {
                Unanswered::Unexpected(analytics.for_log(unexpected.to_string()))
            })?;
            match next {
                Next::Ask(more) => queries = more,
                Next::Reply(reply) => break reply,
            }
        };
        Ok(reply.map(|reply| {
            let mut reply = analytics.clean(reply);
            if !has_dataset {
                // A report is an object, and never an empty one.
                reply.insert_str(1, NO_CHECK_INS_YET);
                console_warn!("{}", json!({ "code": "no_check_ins_yet", "detail": NO_DATASET }));
            }
            reply
        }))
    }

    /// What must be the same for an answer to be the same: path, parameters in whatever order, what the
    /// operator may see, and who is asked, since Workers of one zone share a cache.
    ///
    /// The key is a URL that anybody can ask for. It has the request's own host and path, because what is sent
    /// there comes to this Worker and its gate first: at another path, the zone may have no route to it, and
    /// Cloudflare would answer from the cache. No question is at the key itself, as it has parameters that no
    /// question has.
    fn cache_key(&self, analytics: &Analytics) -> String {
        let only = self.operator.sandbox.as_deref().unwrap_or_default();
        let pairs = [("-from", analytics.url.as_str()), ("-only", only)];
        let query: Vec<_> = self
            .parameters
            .sorted()
            .into_iter()
            .chain(pairs)
            .flat_map(|(name, value)| [name, value])
            .map(|text| String::from(js_sys::encode_uri_component(text)))
            .collect();
        let url = self.request.inner().url();
        let resource = url.split(['?', '#']).next().unwrap_or_default();
        format!("{resource}?{}", query.join("&"))
    }

    /// The answer, or that the client has it already.
    fn respond(&self, body: &str, fresh: u64) -> Result<Response, ApiError> {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let etag = format!("\"{:016x}\"", hasher.finish());
        let known = self.request.headers().get("if-none-match")?.is_some_and(|known| {
            known.split(',').map(str::trim).any(|known| known.trim_start_matches("W/") == etag)
        });
        let cache_control = format!("private, max-age={fresh}");
        let mut response = if known {
            let response = Response::empty()?.with_status(304);
            response.headers().set("cache-control", &cache_control)?;
            answer::no_sniff(response)?
        } else {
            answer::json_text(body, &cache_control)?
        };
        let headers = response.headers_mut();
        headers.set("etag", &etag)?;
        // A browser that changes its token must not be shown what another one was answered.
        headers.set("vary", "authorization, cf-access-jwt-assertion, x-internal-api-key")?;
        Ok(response)
    }
}
