//! Load from outside: fio's NBD engine. A job and a URI go in, operations per second and latencies come out.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tidemark_tests::command::run_within;

/// To write a volume once.
const FILL_LIMIT: Duration = Duration::from_secs(300);

/// What a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Job {
    /// For tables.
    pub(crate) name: &'static str,
    /// In words.
    pub(crate) what: &'static str,
    options: &'static [&'static str],
    /// The least part of `nbdkit file`'s rate that is good, in percent.
    pub(crate) target_percent: u32,
}

/// Small random writes, many at a time.
pub(crate) const DEEP: Job = Job {
    name: "rw4k-qd32",
    what: "4 KiB random writes, depth 32",
    options: &["--rw=randwrite", "--bs=4k", "--iodepth=32"],
    target_percent: 70,
};
/// One large write behind the other.
pub(crate) const SEQUENTIAL: Job = Job {
    name: "seqw1m",
    what: "1 MiB sequential writes, depth 8, fsync at the end",
    options: &["--rw=write", "--bs=1m", "--iodepth=8", "--end_fsync=1"],
    target_percent: 70,
};
/// All jobs.
pub(crate) const JOBS: [Job; 7] = [
    DEEP,
    Job {
        name: "rw4k-qd1",
        what: "4 KiB random writes, depth 1",
        options: &["--rw=randwrite", "--bs=4k", "--iodepth=1"],
        target_percent: 100,
    },
    Job {
        name: "rw4k-fsync",
        what: "4 KiB random writes, fsync after each",
        options: &["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"],
        target_percent: 250,
    },
    Job {
        name: "rr4k-qd32",
        what: "4 KiB random reads, depth 32",
        options: &["--rw=randread", "--bs=4k", "--iodepth=32"],
        target_percent: 100,
    },
    Job {
        name: "mix4k-qd32",
        what: "4 KiB random, 70 % reads, depth 32",
        options: &["--rw=randrw", "--bs=4k", "--iodepth=32", "--rwmixread=70"],
        target_percent: 100,
    },
    SEQUENTIAL,
    Job {
        name: "rw64k-qd8",
        what: "64 KiB random writes, depth 8, fsync at the end",
        options: &["--rw=randwrite", "--bs=64k", "--iodepth=8", "--end_fsync=1"],
        target_percent: 70,
    },
];

/// What a host saw.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Seen {
    /// Operations per second.
    pub(crate) iops: f64,
    /// MB/s.
    pub(crate) megabytes: f64,
    /// 99th percentile of the latency of reads and writes, microseconds. fio counts an fsync as none of these.
    pub(crate) p99_us: f64,
}

/// Runs one job for so long, at full speed or at a rate. The last fsync, where the job has one, is in the time.
pub(crate) fn run(uri: &str, job: &Job, seconds: u64, bytes: u64, operations_per_second: Option<f64>) -> Seen {
    let mut words = vec![
        "--output-format=json".to_owned(),
        "--name=x".into(),
        "--ioengine=nbd".into(),
        format!("--uri={uri}"),
        format!("--size={bytes}"),
        "--time_based=1".into(),
        format!("--runtime={seconds}"),
        "--randrepeat=0".into(),
        "--norandommap=1".into(),
        "--refill_buffers=1".into(),
        "--buffer_compress_percentage=50".into(),
        "--buffer_compress_chunk=4k".into(),
        "--clat_percentiles=1".into(),
    ];
    words.extend(job.options.iter().map(|option| (*option).to_owned()));
    words.extend(operations_per_second.map(|rate| format!("--rate_iops={}", rate as u64)));
    let text = run_within(Duration::from_secs(seconds + 60), "fio", &words).done();
    read(&text).unwrap_or_else(|| panic!("fio's answer cannot be read: {text}"))
}

/// Writes so many bytes once, in order: a whole volume, or its begin.
pub(crate) fn fill(uri: &str, bytes: u64) {
    let words = [
        "--name=fill".to_owned(),
        "--ioengine=nbd".into(),
        format!("--uri={uri}"),
        format!("--size={bytes}"),
        "--rw=write".into(),
        "--bs=1m".into(),
        "--iodepth=4".into(),
        "--refill_buffers=1".into(),
        "--buffer_compress_percentage=50".into(),
        "--buffer_compress_chunk=4k".into(),
    ];
    run_within(FILL_LIMIT, "fio", &words).done();
}

fn read(text: &str) -> Option<Seen> {
    let answer: Value = serde_json::from_str(text.get(text.find('{')?..)?).ok()?;
    let job = answer.get("jobs")?.get(0)?;
    let part = |kind: &str| {
        let part = job.get(kind)?;
        let p99 = part.get("clat_ns").and_then(|times| times.get("percentile")?.get("99.000000")?.as_f64());
        // The rate over the whole time, a last fsync included.
        let operations = part.get("total_ios")?.as_f64()?;
        Some((operations, part.get("io_bytes")?.as_f64()?, p99.unwrap_or_default()))
    };
    let ((reads, read_bytes, read_p99), (writes, written_bytes, write_p99)) = (part("read")?, part("write")?);
    let seconds = job.get("job_runtime")?.as_f64()? / 1000.0;
    Some(Seen {
        iops: (reads + writes) / seconds,
        megabytes: (read_bytes + written_bytes) / 1e6 / seconds,
        p99_us: read_p99.max(write_p99) / 1000.0,
    })
}
