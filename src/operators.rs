//! The operators' API: reports about the fleet, from Analytics Engine's answers.
//!
//! A handler builds a report from a request, runs its queries and returns JSON. The Cache API, if available, keeps a
//! report for [`MAX_AGE`] seconds.

use std::hash::{DefaultHasher, Hash, Hasher};

use js_sys::Promise;
use kiloclaw_fleet::{
    FleetHistoryReport, FleetReport, HistoryReport, IncidentsReport, Parameters, Progress,
    QueryScope, Report, SandboxReport, SandboxesReport, Time,
};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::Response;

use crate::analytics::{Analytics, QueryError};
use crate::bindings::silent_after;
use crate::clock::now_ms;
use crate::error::ApiError;
use crate::log;
use crate::request::{self, Call, header};
use crate::response;

#[wasm_bindgen(module = "/src/operators.js")]
extern "C" {
    fn cached(key: &str) -> Promise;

    fn keep(key: &str, body: &str, made_at: &str, fresh: &str) -> Promise;

    /// What [`cached`] resolves to.
    type Cached;

    #[wasm_bindgen(method, getter)]
    fn body(this: &Cached) -> String;

    #[wasm_bindgen(method, getter, js_name = madeAt)]
    fn made_at(this: &Cached) -> String;
}

/// How long a report is fresh, in seconds.
const MAX_AGE: u64 = 15;

/// The first field of a report before the dataset exists.
const NO_CHECK_INS_YET: &str = r#""noCheckInsYet":true,"#;

/// The warning in the log in that case: the settings may be wrong.
const NO_DATASET: &str = "Analytics Engine has no dataset kiloclaw_controller_telemetry: the first check-in \
     creates it. If there were check-ins, AE_ACCOUNT_ID or AE_SQL_URL names another account";

/// Builds the report that a request asks for.
pub(crate) type Build = for<'a> fn(&'a ReportRequest<'_>) -> Result<Box<dyn Report + 'a>, ApiError>;

/// Answers a request for a report:
///
/// 1. the method is not GET or HEAD → 405
/// 2. a parameter is invalid → 400; the principal may see only another sandbox → 403
/// 3. a setting for Analytics Engine is missing → 503
/// 4. the cache has a fresh report → 200 or 304
/// 5. a query fails → 429, 502 or 504
/// 6. the report's subject was not seen → 404
/// 7. otherwise → 200 or 304
pub(crate) async fn respond(call: &Call, build: Build) -> Result<Response, ApiError> {
    // 1.
    let request = ReportRequest::new(call)?;
    // 2.
    let mut report = build(&request)?;
    request.run_cached(&mut *report).await
}

/// `GET /api/fleet`: the state of the fleet at a glance.
pub(crate) fn fleet<'a>(request: &'a ReportRequest<'_>) -> Result<Box<dyn Report + 'a>, ApiError> {
    Ok(Box::new(FleetReport::new(&request.parameters, request.scope())?))
}

/// `GET /api/fleet/history`: the fleet over time.
pub(crate) fn fleet_history<'a>(
    request: &'a ReportRequest<'_>,
) -> Result<Box<dyn Report + 'a>, ApiError> {
    Ok(Box::new(FleetHistoryReport::new(&request.parameters, request.scope())?))
}

/// `GET /api/sandboxes`: the latest state of each sandbox.
pub(crate) fn sandboxes<'a>(
    request: &'a ReportRequest<'_>,
) -> Result<Box<dyn Report + 'a>, ApiError> {
    Ok(Box::new(SandboxesReport::new(&request.parameters, request.scope())?))
}

/// `GET /api/sandboxes/{sandboxId}`: one sandbox.
pub(crate) fn sandbox<'a>(
    request: &'a ReportRequest<'_>,
) -> Result<Box<dyn Report + 'a>, ApiError> {
    Ok(Box::new(SandboxReport::new(&request.sandbox()?, &request.parameters, request.now)?))
}

/// `GET /api/sandboxes/{sandboxId}/history`: one sandbox over time.
pub(crate) fn history<'a>(
    request: &'a ReportRequest<'_>,
) -> Result<Box<dyn Report + 'a>, ApiError> {
    Ok(Box::new(HistoryReport::new(&request.sandbox()?, &request.parameters, request.now)?))
}

/// `GET /api/incidents`: what an operator should look at.
pub(crate) fn incidents<'a>(
    request: &'a ReportRequest<'_>,
) -> Result<Box<dyn Report + 'a>, ApiError> {
    Ok(Box::new(IncidentsReport::new(&request.parameters, request.scope())?))
}

/// The parameters of a URL's query.
pub(crate) fn parameters(url: &str) -> Parameters {
    let flat = request::parameters(url);
    let (pairs, _) = flat.as_chunks();
    Parameters::new(pairs.iter().cloned().map(<(String, String)>::from))
}

pub(crate) struct ReportRequest<'a> {
    call: &'a Call,
    /// The only sandbox that the principal may see, if there is one.
    only: Option<&'a str>,
    parameters: Parameters,
    now: Time,
}

impl<'a> ReportRequest<'a> {
    fn new(call: &'a Call) -> Result<Self, ApiError> {
        call.only_get()?;
        let parameters = parameters(&call.request.url()).with_silent_after(silent_after(&call.env));
        let only = call.principal()?.sandbox.as_deref();
        Ok(Self { call, only, parameters, now: Time(now_ms() / 1_000) })
    }

    fn scope(&self) -> QueryScope<'a> {
        QueryScope { now: self.now, only: self.only }
    }

    /// The sandbox that the path names, if the principal may see it.
    fn sandbox(&self) -> Result<String, ApiError> {
        let encoded = self.call.sandbox.as_deref().unwrap_or_default();
        let decoded = js_sys::decode_uri_component(encoded).map_err(|_| ApiError::not_found())?;
        let sandbox = String::from(decoded);
        match self.only {
            Some(only) if only != sandbox => Err(ApiError::other_sandbox()),
            _ => Ok(sandbox),
        }
    }

    /// Steps 3 to 7 of [`respond`].
    async fn run_cached(&self, report: &mut dyn Report) -> Result<Response, ApiError> {
        // 3.
        let analytics = Analytics::new(&self.call.env).map_err(ApiError::reports_misconfigured)?;
        // 4.
        let key = self.cache_key(&analytics);
        let found = JsFuture::from(cached(&key)).await.unwrap_or_default();
        if !found.is_undefined() {
            let found: Cached = found.unchecked_into();
            let age = self.now.since(Time(found.made_at().parse().unwrap_or_default()));
            if age < MAX_AGE {
                return Ok(self.respond(&found.body(), MAX_AGE - age));
            }
        }
        // 5. and 6.
        let body = run(&analytics, report).await?.ok_or_else(ApiError::unknown_sandbox)?;
        // 7. Never rejected: the report is valid even if it cannot be cached.
        let kept = keep(&key, &body, &self.now.0.to_string(), &MAX_AGE.to_string());
        drop(JsFuture::from(kept).await);
        Ok(self.respond(&body, MAX_AGE))
    }

    /// The cache key. It contains all that a report depends on: path, sorted parameters, what the principal may see,
    /// and the endpoint, since the Workers of a zone share a cache.
    ///
    /// The key is a URL that anybody can request. It has the request's own host and path, so that such a request first
    /// reaches this Worker and its authentication. The zone may have no route to the Worker for another path, and
    /// Cloudflare would respond from the cache. The key's added parameters are ones that no report accepts.
    fn cache_key(&self, analytics: &Analytics) -> String {
        let only = self.only.unwrap_or_default();
        let pairs = [("-from", analytics.url.as_str()), ("-only", only)];
        let url = self.call.request.url();
        let resource = url.split(['?', '#']).next().unwrap_or_default();
        let mut key = format!("{resource}?");
        for (name, value) in self.parameters.sorted().into_iter().chain(pairs) {
            for text in [name, value] {
                key += &String::from(js_sys::encode_uri_component(text));
                key.push('&');
            }
        }
        key
    }

    /// 200 with the report, or 304 if the client has it already.
    fn respond(&self, body: &str, max_age: u64) -> Response {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let etag = format!("\"{:016x}\"", hasher.finish());
        // A list of tags in quotes, which no tag contains.
        let known = header(&self.call.request, "if-none-match");
        let is_known = known.is_some_and(|known| known.contains(&etag));
        let (status, body) = if is_known { (304, None) } else { (200, Some(body)) };
        let headers = [
            ("cache-control", &*format!("private, max-age={max_age}")),
            ("etag", &*etag),
            // A browser that changes its token must not see the response to the previous token.
            ("vary", "authorization, cf-access-jwt-assertion, x-internal-api-key"),
        ];
        response::with(status, body, &headers)
    }
}

/// Runs the queries of a report, round by round. Before the first check-in, the report shows an empty fleet and says
/// so.
async fn run(analytics: &Analytics, report: &mut dyn Report) -> Result<Option<String>, QueryError> {
    let mut queries = report.queries();
    let mut has_dataset = true;
    let body = loop {
        let (answers, exists) = analytics.ask(queries).await?;
        has_dataset &= exists;
        let progress = report.read(&answers).map_err(|unexpected| {
            QueryError::Unexpected(analytics.for_log(unexpected.to_string()))
        })?;
        match progress {
            Progress::Query(more) => queries = more,
            Progress::Done(body) => break body,
        }
    };
    Ok(body.map(|body| {
        let mut body = analytics.clean(body);
        if !has_dataset {
            // A report is a JSON object with at least one field.
            body.insert_str(1, NO_CHECK_INS_YET);
            log::warn("no_check_ins_yet", NO_DATASET);
        }
        body
    }))
}
