//! The W3C `traceparent` of an event. Never makes one.

/// The parts of a valid W3C `traceparent`, of this version or a later one.
///
/// ```
/// use tidings_contract::Traceparent;
///
/// let parts = Traceparent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
/// assert_eq!(parts.trace_id, "0af7651916cd43dd8448eb211c80319c");
/// assert_eq!(parts.span_id, "b7ad6b7169203331");
/// assert!(parts.is_sampled);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traceparent<'a> {
    /// The id of the trace: 32 hexadecimal digits, not all zero.
    pub trace_id: &'a str,
    /// The id of the span: 16 hexadecimal digits, not all zero.
    pub span_id: &'a str,
    /// Whether the trace is sampled.
    pub is_sampled: bool,
}

impl<'a> Traceparent<'a> {
    /// Reads `<version>-<trace id>-<span id>-<flags>`; a later version may append more. `None` when it is not valid.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace_id, span_id, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_of_later_version = version != "00";
        let is_valid = is_hex(version, 2)
            && version != "ff"
            && is_id(trace_id, 32)
            && is_id(span_id, 16)
            && is_hex(flags, 2)
            && (is_of_later_version || parts.next().is_none());
        let flags = u8::from_str_radix(flags, 16).ok()?;
        is_valid.then_some(Self {
            trace_id,
            span_id,
            is_sampled: flags & 1 == 1,
        })
    }
}

/// Hexadecimal digits that are not all zero.
fn is_id(text: &str, digits: usize) -> bool {
    is_hex(text, digits) && text.bytes().any(|digit| digit != b'0')
}

fn is_hex(text: &str, digits: usize) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == digits && text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_of_any_version_has_its_parts() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        for (valid, is_sampled) in [
            (format!("00-{trace}-{span}-01"), true),
            (format!("00-{trace}-{span}-00"), false),
            (format!("00-{trace}-{span}-03"), true),
            (format!("01-{trace}-{span}-01-later"), true),
        ] {
            let parts = Traceparent::parse(&valid).unwrap();
            assert_eq!((parts.trace_id, parts.span_id), (trace, span), "{valid}");
            assert_eq!(parts.is_sampled, is_sampled, "{valid}");
        }
        let zeros = "0".repeat(32);
        for invalid in [
            String::new(),
            "00-a-b-01".to_owned(),
            format!("ff-{trace}-{span}-01"),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-01-more"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}0-{span}-01"),
            format!("00-{zeros}-{span}-01"),
            format!("00-{trace}-{}-01", &zeros[..16]),
            format!("00-{trace}\u{e9}-{span}-01"),
        ] {
            assert_eq!(Traceparent::parse(&invalid), None, "{invalid}");
        }
    }
}
