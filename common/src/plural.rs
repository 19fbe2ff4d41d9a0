//! Numbers of things in words for people.

/// So many of what a word names, which takes an s where there is not just one.
#[must_use]
pub fn counted(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_thing_no_more_is_said_than_one() {
        assert_eq!(
            [0, 1, 2].map(|number| counted(number, "NBD connection")).join(", "),
            "0 NBD connections, 1 NBD connection, 2 NBD connections"
        );
    }
}
