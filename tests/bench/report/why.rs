//! What keeps a row from its target, told beside a row that is not reached. The graphs are in `docs/performance`, and what follows from them in
//! `profile.md` there.

/// How the measure begins, and what limits it.
const LIMITS: [(&str, &str); 11] = [
    ("4 KiB random writes, fsync after each", "the disk's flush, which everybody waits for (rw4k-fsync.svg)"),
    (
        "1 MiB sequential writes",
        "two processors: each byte is copied, compressed, encrypted and written four times over (seqw1m.svg)",
    ),
    (
        "64 KiB random writes",
        "two processors: each byte is copied, compressed, encrypted and written four times over (rw64k-qd8.svg)",
    ),
    ("p99 latency of 4 KiB writes", "what carries writes on competes with hosts for two processors (half.svg)"),
    ("RPO at half", "applying competes with hosts for two processors and the disk (half.svg)"),
    ("initial copy", "lz4 and copies in memory, on two processors (copy.svg)"),
    ("apply on the secondary", "copies in memory, lz4, and the disk, which has the journal to take, too (apply.svg)"),
    (
        "journal bytes delivered per CPU second of shipping",
        "reading the journal; of the link's own part, memory that is in no cache (apply.svg, and the steps below)",
    ),
    ("bytes on the wire", "tables and headers of frames, then packets: the next row divides them (profile.md)"),
    (
        "4 KiB writes to a target",
        "the first write to a region under a backup reads what it overwrites from the disk (profile.md)",
    ),
    ("4 KiB writes, 1000/s", "copying competes with hosts for two processors and the disk (decision 6)"),
];

/// In a few words; of what nobody has looked at, that.
pub(super) fn limit(measure: &str) -> &'static str {
    let known = LIMITS.iter().find(|(begin, _)| measure.starts_with(begin));
    known.map_or("not profiled yet: scripts/profile makes a graph of a job", |(_, limit)| *limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_that_are_named_are_kept() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance");
        let words = LIMITS.iter().flat_map(|(_, limit)| limit.split(['(', ')', ' ', ',']));
        let graphs: Vec<&str> = words.filter(|word| word.ends_with(".svg")).collect();
        assert!(graphs.len() >= 7, "{graphs:?}");
        for graph in graphs {
            assert!(folder.join(graph).is_file(), "{graph}");
        }
    }

    #[test]
    fn what_nobody_has_looked_at_is_said_to_be_that() {
        assert!(limit("start of 1000 volumes").contains("not profiled"));
        assert!(limit("initial copy").contains("copy.svg"));
    }
}
