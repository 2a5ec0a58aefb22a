//! `POST /api/controller/checkin`: moves bytes between the runtime and the contract.

use futures_util::StreamExt;
use kiloclaw_checkin::limits::MAX_BODY_BYTES;
use kiloclaw_checkin::{
    CheckIn, DataPoint, FLY_REGION_HEADER, GATEWAY_TOKEN_HEADER, InvalidBody, Presented, Refusal,
};
use worker::{
    AnalyticsEngineDataPointBuilder, AnalyticsEngineDataset, Method, Request, Response,
    RouteContext,
};

use crate::answer::ApiError;
use crate::bindings::Ingest;

/// Takes a check-in:
///
/// 1. another method than POST → 405
/// 2. a credential header is missing, or the scheme is not Bearer → 401
/// 3. a secret or binding is missing or empty → 503
/// 4. the API key is wrong → 403, before the body is read
/// 5. the body is over 16 KiB → 413, before the rest is read
/// 6. the body is not a check-in → 400
/// 7. the gateway token is not this sandbox's → 403
/// 8. the data point cannot be written → 503
/// 9. otherwise → 204
pub(crate) async fn handle(
    mut request: Request,
    context: RouteContext<()>,
) -> worker::Result<Response> {
    let mut sandbox_id = None;
    match accept(&mut request, &context, &mut sandbox_id).await {
        Ok(()) => Ok(Response::builder().with_status(204).empty()),
        Err(error) => error.into_response_for(sandbox_id.as_deref()),
    }
}

async fn accept(
    request: &mut Request,
    context: &RouteContext<()>,
    sandbox_id: &mut Option<String>,
) -> Result<(), ApiError> {
    // 1. The router reads unknown methods as GET; the check-in takes POST alone either way.
    if request.method() != Method::Post {
        return Err(Refusal::MethodNotAllowed.into());
    }

    // 2.
    let authorization = header(request, "authorization");
    let gateway_token = header(request, GATEWAY_TOKEN_HEADER);
    let presented = Presented::from_headers(authorization.as_deref(), gateway_token.as_deref())?;

    // 3.
    let ingest = Ingest::read(&context.env)?;

    // 4.
    if !ingest.api_keys.accept(presented.api_key) {
        return Err(Refusal::WrongApiKey.into());
    }

    // 5. and 6.
    let body = read_body(request).await?;
    let checkin = CheckIn::parse(&body).map_err(Refusal::from)?;
    *sandbox_id = Some(checkin.sandbox_id.clone().into_owned());

    // 7.
    if !ingest.gateway.accept(&checkin.sandbox_id, presented.gateway_token) {
        return Err(Refusal::WrongGatewayToken.into());
    }

    // 8.
    let region = header(request, FLY_REGION_HEADER).unwrap_or_default();
    write(&ingest.dataset, &DataPoint::new(&checkin, &region))
}

fn header(request: &Request, name: &str) -> Option<String> {
    request.headers().get(name).ok().flatten()
}

/// Reads the body, or refuses it as soon as it is known to be too large.
async fn read_body(request: &mut Request) -> Result<Vec<u8>, Refusal> {
    let unreadable = |_| Refusal::from(InvalidBody::NotJson);
    if let Some(length) = header(request, "content-length") {
        // The runtime reads no more than this many bytes, and no fewer.
        return match length.parse::<usize>() {
            Ok(length) if length <= MAX_BODY_BYTES => request.bytes().await.map_err(unreadable),
            _ => Err(Refusal::BodyTooLarge),
        };
    }
    let mut body = Vec::new();
    // No stream: no body, as good as an empty one.
    if let Ok(mut chunks) = request.stream() {
        while let Some(chunk) = chunks.next().await {
            body.extend(chunk.map_err(unreadable)?);
            if body.len() > MAX_BODY_BYTES {
                return Err(Refusal::BodyTooLarge);
            }
        }
    }
    Ok(body)
}

fn write(dataset: &AnalyticsEngineDataset, point: &DataPoint<'_>) -> Result<(), ApiError> {
    AnalyticsEngineDataPointBuilder::new()
        .indexes([point.index])
        .blobs(point.blobs)
        .doubles(point.doubles)
        .write_to(dataset)
        .map_err(|error| ApiError::WriteFailed(error.to_string()))
}
