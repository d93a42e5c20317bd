//! What a layer may be. Each bound is far above what images on public registries have.

/// Bytes of a layer's tar stream, and of any one file by its stated size: larger ones do not fit on
/// the machines this is for.
pub const MAX_LAYER: u64 = 16 << 30;
/// Unpacked bytes for each compressed byte, beyond [`RATIO_FREE`]. Real layers stay below 20; gzip
/// can do 1,032.
pub const MAX_RATIO: u64 = 200;
/// Unpacked bytes that no ratio is asked of: a file of zeros may be this large.
pub const RATIO_FREE: u64 = 256 << 20;
/// Entries of a layer: more than a full distribution with all its packages has.
pub const MAX_ENTRIES: u64 = 1 << 20;
/// Bytes of a path or of a link's target: the kernel's own limit.
pub const MAX_PATH: usize = 4096;
/// Directories in one path. Removing a tree holds a descriptor for each.
pub const MAX_DEPTH: usize = 256;
/// Bytes of one pax header or GNU long name, which are held in memory. Extended attributes are at
/// most 64 KiB each on Linux.
pub const MAX_EXTENSION: u64 = 1 << 20;
/// Data regions of a sparse file, held in memory.
pub const MAX_SPARSE: usize = 1 << 16;
/// Bytes of the names of implied directories, which become part of a layer's record.
pub const MAX_IMPLIED: usize = 2 << 20;
/// Unpacked bytes between two looks at the free space.
pub const SPACE_CHECK: u64 = 16 << 20;
/// Inodes that stay free on file systems that count them.
pub const INODE_RESERVE: u64 = 4096;
/// Bytes of a chunk between the decompressing and the writing thread: they stay in a core's cache.
pub const CHUNK: usize = 128 << 10;
/// Chunks under way between the two.
pub const CHUNKS: usize = 4;
/// Address space of the unpacking process: some times its need with the largest zstd window.
pub const ADDRESS_SPACE: u64 = 1 << 30;
/// Descriptors of the unpacking process: it holds five.
pub const DESCRIPTORS: u64 = 64;
