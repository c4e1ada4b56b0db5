//! The trace of an event, as the label of an exemplar. Never keeps one that is not sampled: no tool could show it.

use std::fmt::{self, Write};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use tidings_contract::Traceparent;

/// A trace id of W3C: 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TraceId([u8; 32]);

/// The labels of an exemplar.
pub(super) type Exemplar = [(&'static str, TraceId); 1];

/// The exemplar for an event with this `traceparent`, if its trace is sampled.
pub(super) fn exemplar(traceparent: &str) -> Option<Exemplar> {
    Some([("trace_id", TraceId::of(traceparent)?)])
}

impl TraceId {
    fn of(traceparent: &str) -> Option<Self> {
        let parts = Traceparent::parse(traceparent).filter(|parts| parts.is_sampled)?;
        let id = parts.trace_id.as_bytes().try_into().ok()?;
        Some(Self(id))
    }
}

impl EncodeLabelValue for TraceId {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sampled_trace_has_an_exemplar() {
        const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        let of = |text: &str| exemplar(text).map(|[(_, id)]| id);
        let known = Some(TraceId(ID.as_bytes().try_into().unwrap()));
        let span = "00f067aa0ba902b7";
        assert_eq!(of(&format!("00-{ID}-{span}-01")), known);
        assert_eq!(of(&format!("01-{ID}-{span}-03-more")), known);
        for bad in [
            format!("00-{ID}-{span}-00"),
            format!("ff-{ID}-{span}-01"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{}-{span}-01", ID.to_uppercase()),
            format!("00-{ID}-{span}"),
            format!("00-{ID}0-{span}-01"),
            "\"} 1".to_owned(),
            String::new(),
        ] {
            assert_eq!(of(&bad), None, "{bad}");
        }
    }
}
