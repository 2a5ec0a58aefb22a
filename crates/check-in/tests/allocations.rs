//! Accepting a check-in allocates nothing, unless a string is escaped.

#![expect(clippy::unwrap_used, reason = "test helpers")]

use kiloclaw_check_in::{AcceptedKeys, CheckIn, DataPoint, GatewaySecrets, Presented};

const BODY: &str = r#"{"sandboxId":"sandbox-1","machineId":"m","controllerVersion":"1.2.3",
    "controllerCommit":"abc1234","openclawVersion":"2026.3.13","openclawCommit":null,
    "supervisorState":"running","totalRestarts":7,"restartsSinceLastCheckin":2,
    "uptimeSeconds":3600.5,"loadAvg5m":0.42,"bandwidthBytesIn":123456789012,
    "bandwidthBytesOut":1000,"lastExitReason":"signal:SIGTERM","unknown":[]}"#;

fn allocations(body: &str) -> u64 {
    let api_keys = AcceptedKeys::new("new,old", &[7; 32]).unwrap();
    let gateway = GatewaySecrets::new("new,old").unwrap();
    let token = gateway.token("sandbox-1");
    let counted = allocation_counter::measure(|| {
        let presented = Presented::from_headers(Some("Bearer old"), Some(token.expose())).unwrap();
        assert!(api_keys.accept(presented.api_key));
        let check_in = CheckIn::parse(body.as_bytes()).unwrap();
        assert!(gateway.accept(&check_in.sandbox_id, presented.gateway_token));
        assert_eq!(DataPoint::new(&check_in, "fra").index, "sandbox-1");
    });
    counted.count_total
}

#[test]
fn an_accepted_check_in_allocates_nothing() {
    assert_eq!(allocations(BODY), 0);
}

#[test]
fn an_escaped_string_allocates_itself_and_its_unescape_buffer() {
    let escaped = BODY.replace("signal:SIGTERM", "signal:\\u0053IGTERM");
    assert!((1..=3).contains(&allocations(&escaped)), "{}", allocations(&escaped));
}
