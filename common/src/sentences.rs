//! Several things to be said of one: one after the other, so that none hides another.

/// As one text; `None`: there is nothing to say.
#[must_use]
pub fn joined(parts: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let said: Vec<String> = parts.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join(". "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_to_be_said_leaves_no_gap() {
        assert_eq!(joined([None, Some("one".into()), None, Some("two".into())]).as_deref(), Some("one. two"));
        assert_eq!(joined([None, None]), None);
    }
}
