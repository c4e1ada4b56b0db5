//! The subjects of a stream that several services declare: those of all of them. Pure.

use tidings_contract::Pattern;

/// A subject that a stream takes, and a declared one that cannot be added to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nats) struct Overlap {
    pub(in crate::nats) taken: String,
    pub(in crate::nats) wanted: String,
}

/// The subjects that a stream takes after `wanted` is added, in a stable order: the present ones, then the new ones. A
/// subject that another one covers is omitted, because the server refuses both together.
///
/// # Errors
/// [`Overlap`] when two subjects overlap and neither covers the other.
pub(in crate::nats) fn added(taken: &[String], wanted: &[Pattern]) -> Result<Vec<String>, Overlap> {
    let mut all = taken.to_vec();
    for wanted in wanted.iter().map(Pattern::as_str) {
        if all.iter().any(|taken| covers(taken, wanted)) {
            continue;
        }
        all.retain(|taken| !covers(wanted, taken));
        if let Some(taken) = all.iter().find(|taken| overlaps(taken, wanted)) {
            let (taken, wanted) = (taken.clone(), wanted.to_owned());
            return Err(Overlap { taken, wanted });
        }
        all.push(wanted.to_owned());
    }
    Ok(all)
}

/// The subjects that a stream takes and no wanted subject covers.
pub(in crate::nats) fn extra(taken: &[String], wanted: &[Pattern]) -> Vec<String> {
    let is_wanted = |taken: &&String| {
        let mut wanted = wanted.iter();
        wanted.any(|wanted| covers(wanted.as_str(), taken))
    };
    let extra = taken.iter().filter(|taken| !is_wanted(taken));
    extra.cloned().collect()
}

/// Whether `wide` matches everything that `prune` matches.
fn covers(wide: &str, prune: &str) -> bool {
    let mut prune = prune.split('.');
    for word in wide.split('.') {
        match (word, prune.next()) {
            (_, None) => return false,
            (">", Some(_)) => return true,
            (_, Some(">")) => return false,
            ("*", Some(_)) => {}
            (word, Some(other)) if word == other => {}
            _ => return false,
        }
    }
    prune.next().is_none()
}

/// Whether some subject matches both.
pub(in crate::nats) fn overlaps(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (None, _) | (_, None) => return false,
            (Some(">"), _) | (_, Some(">")) => return true,
            (Some("*"), _) | (_, Some("*")) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts
            .iter()
            .map(|text| Pattern::parse(text).unwrap())
            .collect()
    }

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn subjects_that_other_services_declared_stay() {
        let added = |taken: &[&str], wanted: &[&str]| added(&owned(taken), &patterns(wanted));
        assert_eq!(
            added(&["order.>"], &["user.>"]),
            Ok(owned(&["order.>", "user.>"]))
        );
        assert_eq!(
            added(&["user.>"], &["user.created"]),
            Ok(owned(&["user.>"]))
        );
        assert_eq!(
            added(&["user.created", "a.b"], &["user.>"]),
            Ok(owned(&["a.b", "user.>"]))
        );
        assert_eq!(added(&[], &["a.>", "a.b"]), Ok(owned(&["a.>"])));
        let overlap = Overlap {
            taken: "a.*".into(),
            wanted: "*.b".into(),
        };
        assert_eq!(added(&["a.*"], &["*.b"]), Err(overlap));
    }

    #[test]
    fn a_subject_that_no_handler_wants_is_extra() {
        let extra = |taken: &[&str], wanted: &[&str]| extra(&owned(taken), &patterns(wanted));
        assert_eq!(
            extra(&["user.>", "order.>"], &["user.>"]),
            owned(&["order.>"])
        );
        assert_eq!(extra(&["user.created"], &["user.*"]), owned(&[]));
        assert_eq!(extra(&["user.>"], &["user.*"]), owned(&["user.>"]));
    }

    #[test]
    fn covering_is_overlapping() {
        let all = [
            "a", "*", ">", "a.b", "a.*", "*.b", "a.>", "*.>", "a.b.c", "a.*.c", "b.>",
        ];
        for wide in all {
            assert!(covers(wide, wide) && overlaps(wide, wide));
            for narrow in all {
                assert_eq!(overlaps(wide, narrow), overlaps(narrow, wide));
                assert!(
                    !covers(wide, narrow) || overlaps(wide, narrow),
                    "{wide} {narrow}"
                );
            }
        }
        assert!(covers("a.*", "a.b") && !covers("a.*", "a.>") && covers("a.>", "a.*.c"));
        assert!(!covers("a.>", "a") && !overlaps("a.>", "a") && overlaps("a.*", "*.b"));
    }
}
