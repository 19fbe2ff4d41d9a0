//! Every limit in one place, and how they relate.

/// Largest single NBD request payload, bytes: what Linux, QEMU and libnbd use.
pub const NBD_REQUEST_BYTES_MAX: u32 = 32 << 20;
/// Block size preferred by exports, bytes.
pub const NBD_BLOCK_BYTES_PREFERRED: u32 = 4096;
/// Requests of one NBD connection under way at once.
pub const NBD_REQUESTS_IN_FLIGHT_MAX: usize = 128;
/// Bytes of one NBD connection's requests under way at once.
pub const NBD_BYTES_IN_FLIGHT_MAX: usize = 64 << 20;
/// Bytes of their buffers that each NBD connection may have whatever others have: the requests of all but deep queues of large ones.
pub const NBD_OWN_BYTES_MAX: usize = 1 << 20;
/// Bytes of their buffers that all NBD connections may have together, beyond each one's own.
pub const NBD_SHARED_BYTES_MAX: usize = 1 << 30;
/// Bytes of finished replies waiting for the socket beyond which no further request of that NBD connection is begun.
pub const NBD_REPLY_BACKLOG_BYTES: usize = 512 << 10;
/// Longest string of the NBD protocol (names, queries, messages), bytes: the protocol's own limit.
pub const NBD_STRING_BYTES_MAX: usize = 4096;
/// Longest data of one NBD option that is looked at, bytes; longer ones are skipped and answered "too big".
pub const NBD_OPTION_BYTES_MAX: usize = 64 << 10;
/// Longest data of one NBD option that is skipped, bytes; a client that sends more is cut off.
pub const NBD_OPTION_SKIP_BYTES_MAX: usize = 4 << 20;
/// Runs in one BLOCK_STATUS reply at most; clients ask again from where it ends.
pub const NBD_STATUS_RUNS_MAX: usize = 4096;
/// NBD connections of one appliance at once.
pub const NBD_CONNECTIONS_MAX: usize = 4096;
/// Bytes of socket data taken from one NBD connection with one read.
pub const NBD_INPUT_BYTES: usize = 256 << 10;
/// Write payloads of at least this many bytes are read from the socket straight into their own buffer.
pub const NBD_DIRECT_PAYLOAD_BYTES: usize = 32 << 10;
/// Spare request buffers a busy NBD connection keeps, bytes; an idle one keeps none.
pub const NBD_SPARE_BYTES_MAX: usize = 16 << 20;
/// Threads that wait for disks in place of those that answer hosts, or peers: there are as many as are needed.
pub const BLOCKING_THREADS_MAX: usize = 2048;
/// Those of one export at once.
pub const DISK_THREADS_MAX: usize = 64;
/// Sizes of volumes are multiples of this, bytes.
pub const SECTOR_BYTES: u64 = 512;
/// Largest volume, bytes (64 TiB).
pub const VOLUME_BYTES_MAX: u64 = 64 << 40;
/// Milliseconds between two cuts of a group that make sense.
pub const INTERVAL_MS: std::ops::RangeInclusive<u64> = 10..=86_400_000;
/// Longest tag of a marker, bytes.
pub const TAG_BYTES_MAX: usize = 200;
/// Largest generation of a group that is believed: one is added per change of roles.
pub const GENERATION_MAX: u64 = 1 << 48;
/// Largest sequence number that is believed: one is given out per write.
pub const SEQ_MAX: u64 = 1 << 60;
/// Largest number of a marker that is believed: one is given out per cut.
pub const MARKER_MAX: u64 = 1 << 56;
/// Whether these can have been given out. What comes from a peer or a disk is counted on from: a number that nothing can follow is refused where
/// it is read.
#[must_use]
pub const fn are_believed(seq: u64, marker: u64, generation: u64) -> bool {
    seq <= SEQ_MAX && marker <= MARKER_MAX && generation <= GENERATION_MAX
}
/// Whether what a peer tells is believed. Whoever goes on behind it counts on from there, and has to be believed by itself as long as there are
/// disks: half of the numbers are left for that.
#[must_use]
pub const fn can_be_followed(seq: u64, marker: u64, generation: u64) -> bool {
    seq <= SEQ_MAX / 2 && marker <= MARKER_MAX / 2 && generation <= GENERATION_TOLD_MAX
}
/// Largest generation that a peer is believed: [`can_be_followed`].
pub const GENERATION_TOLD_MAX: u64 = GENERATION_MAX / 2;
/// Largest index of a volume that is believed: one is given out per volume that joins a group.
pub const VOLUME_INDEX_MAX: u32 = 1 << 30;
/// Volumes of one appliance.
pub const VOLUMES_MAX: usize = 4096;
/// Raw bytes in one frame at most.
pub const FRAME_RAW_BYTES_MAX: usize = 4 << 20;
/// Extents in one frame at most.
pub const FRAME_EXTENTS_MAX: usize = 4096;
/// Stored bytes of one frame, header included, at most: raw data that did not compress, and its tables.
pub const FRAME_STORED_BYTES_MAX: usize = FRAME_RAW_BYTES_MAX + (1 << 20);
/// Ranges that the index of what is not yet in a group's volumes holds in memory, about 100 bytes each; twice as many for a moment.
pub const INDEX_RANGES_MAX: usize = 1 << 18;
/// The same of each image of a moment that the volumes have not reached: there may be many.
pub const IMAGE_INDEX_RANGES_MAX: usize = 1 << 16;
/// How much of a copy's journal a copy may take that is staged beside the image it replaces; the rest is for what hosts write meanwhile.
#[must_use]
pub const fn staging_room_bytes(journal_capacity_bytes: u64) -> u64 {
    journal_capacity_bytes / 4 * 3
}

/// Raw bytes compressed as one piece.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Granularity of differential bitmaps, bytes.
pub const REGION_BYTES: u64 = 64 << 10;
/// Largest message on a control stream, bytes.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Data streams of a pair.
pub const DATA_STREAMS: usize = 4;
/// Bytes a receiver holds while it puts streams back in order.
pub const REORDER_BYTES_MAX: usize = 64 << 20;
/// Bytes of frames a data sender holds before QUIC takes them.
pub const SEND_QUEUE_BYTES_MAX: usize = 8 << 20;
/// Handshakes of strangers under way at once.
pub const LINK_HANDSHAKES_MAX: usize = 64;
/// Accepted connections of one appliance at once.
pub const LINK_CONNECTIONS_MAX: usize = 1024;
/// Those of one peer: the others are for other peers, whatever it does.
pub const LINK_CONNECTIONS_OF_PEER_MAX: usize = 768;

const _: () = {
    assert!(REORDER_BYTES_MAX > DATA_STREAMS * FRAME_STORED_BYTES_MAX, "every stream can hold one frame");
    assert!(SEND_QUEUE_BYTES_MAX >= FRAME_STORED_BYTES_MAX, "the largest frame can be sent");
    assert!(FRAME_RAW_BYTES_MAX.is_multiple_of(CHUNK_BYTES), "a frame is whole chunks");
    assert!(NBD_REQUEST_BYTES_MAX as usize <= NBD_BYTES_IN_FLIGHT_MAX, "the largest request fits");
    assert!(
        NBD_REQUESTS_IN_FLIGHT_MAX * NBD_BLOCK_BYTES_PREFERRED as usize <= NBD_OWN_BYTES_MAX,
        "small requests need no others' leave"
    );
    assert!(NBD_SHARED_BYTES_MAX >= NBD_BYTES_IN_FLIGHT_MAX, "one connection may have all that it may have");
    assert!(BLOCKING_THREADS_MAX >= 32 * DISK_THREADS_MAX, "many exports may hang before others do");
    assert!(LINK_CONNECTIONS_OF_PEER_MAX < LINK_CONNECTIONS_MAX, "other peers come in");
    assert!(NBD_OPTION_BYTES_MAX > 2 * NBD_STRING_BYTES_MAX, "an export name and a query fit");
    assert!(NBD_INPUT_BYTES > 2 * NBD_DIRECT_PAYLOAD_BYTES, "a request that is not direct fits, wherever it begins");
};
