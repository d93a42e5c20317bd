//! Layers as hostile as they come, and layers that are merely unusual.

mod support;

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_images::{Image, ImageError, Policy, Sha256};
use support::{Auth, Layer, Put, Registry, gzip, header, host, leftovers, name, noise, open, quiet, tar};
use tar::EntryType;

#[test]
fn child_entry() {
    support::child_entry();
}

fn pull(dir: &Path, layers: &[Layer]) -> Result<Image, ImageError> {
    let registry = Registry::start(Auth::None);
    let (reference, _) = registry.put_image("a", "1", layers);
    open(dir).ensure(&name(&reference), Policy::Always, &[], &host(), &quiet)
}

/// The layer is refused with this reason, nothing is left of it, and nothing outside was touched.
fn check_refused(layer: Layer, expect: &str) {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("images");
    let error = pull(&dir, &[layer]).err().unwrap_or_else(|| panic!("{expect}: was accepted"));
    assert!(matches!(error, ImageError::Layer { .. }), "expected {expect:?}: {error:?}");
    assert!(error.to_string().contains(expect), "expected {expect:?}: {error}");
    assert_eq!(leftovers(&dir), Vec::<String>::new(), "{error}");
    let outside: Vec<_> = std::fs::read_dir(outer.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(outside, ["images"], "{error}");
    assert!(!Path::new("/tmp/coracle-evil").exists() && !Path::new("/coracle-evil").exists());
}

fn refused(entries: &[Put<'_>], expect: &str) {
    check_refused(Layer::gzip(&tar(entries)), expect);
}

#[test]
fn escapes_are_refused() {
    use Put::{Dir, File, Hard, Link};
    refused(&[File("../coracle-evil", b"x")], "leaves the layer with ..");
    refused(&[File("a/../../../coracle-evil", b"x")], "leaves the layer with ..");
    refused(&[File("a/..", b"x")], "leaves the layer with ..");
    refused(&[File("/tmp/coracle-evil", b"x")], "an absolute path");
    refused(&[Dir("//tmp", 0o777)], "an absolute path");
    refused(&[Link("a", "/tmp"), File("a/coracle-evil", b"x")], "through a symbolic link");
    refused(&[Link("a", "/"), Dir("a/coracle-evil", 0o777)], "through a symbolic link");
    refused(&[Link("a", "../../../../.."), File("a/coracle-evil", b"x")], "through a symbolic link");
    refused(&[Dir("d", 0o755), Link("d/a", "../.."), File("d/a/coracle-evil", b"x")], "through a symbolic link");
    refused(&[Link("a", "/proc/self/root/tmp"), File("a/coracle-evil", b"x")], "through a symbolic link");
    refused(&[Link("a", "b"), Link("b", "a"), File("a/x", b"x")], "too many symbolic links");
    refused(&[Link("a", "nowhere"), File("a/x", b"x")], "leads nowhere");
    refused(&[Hard("a", "../../../../etc/passwd")], "leaves the layer with ..");
    refused(&[Hard("a", "/etc/passwd")], "an absolute path");
    refused(&[Link("s", "/etc"), Hard("a", "s/passwd")], "through a symbolic link");
    refused(&[Hard("a", "nothing")], "which is not in this layer");
    refused(&[Hard("a", "a")], "a hard link to");
    refused(&[Link("a", "/tmp"), File("a/.wh.coracle-evil", b"")], "through a symbolic link");
    refused(&[File(".wh...", b"")], "a whiteout of nothing");
    refused(&[File(".wh..", b"")], "a whiteout of nothing");
    refused(&[File(".wh.", b"")], "a whiteout of nothing");
    refused(&[File("f", b"x"), File("f/x", b"x")], "not a directory");
    refused(&[File("d/x", b"x"), File("d", b"x")], "replaces a directory");
}

#[test]
fn broken_archives_are_refused() {
    let good = tar(&[Put::File("a", &noise(1, 100_000)), Put::File("b", b"x")]);
    check_refused(Layer::gzip(&good[..50_000]), "truncated");
    check_refused(Layer::gzip(&good[..700]), "truncated");
    check_refused(Layer::gzip(&good[..300]), "truncated");
    check_refused(Layer::plain(&noise(7, 5000)), "not a tar archive");
    let mut spoilt = good.clone();
    spoilt[120] ^= 1;
    check_refused(Layer::gzip(&spoilt), "checksum is wrong");
    let half = |layer: Layer| Layer { blob: layer.blob[..layer.blob.len() / 2].to_vec(), ..layer };
    check_refused(half(Layer::gzip(&good)), "truncated");
    check_refused(half(zstd(&good)), "zstd");
    let mut flipped = Layer::gzip(&good);
    flipped.blob[5000] ^= 0xff;
    check_refused(flipped, "");
    let mut fresh = header("a", EntryType::Regular, 0o644, "", 0).as_bytes().to_vec();
    fresh.extend([0; 512]);
    fresh.extend(header("b", EntryType::Regular, 0o644, "", 0).as_bytes());
    check_refused(Layer::gzip(&fresh), "a block of zeros between entries");
}

fn raw(kind: u8, size: u64, body: &[u8]) -> Vec<u8> {
    let mut head = header("weird", EntryType::new(kind), 0o644, "", size);
    head.set_cksum();
    let mut out = head.as_bytes().to_vec();
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

#[test]
fn impossible_headers_are_refused() {
    check_refused(Layer::gzip(&raw(b'V', 0, b"")), "unknown entry type 0x56");
    check_refused(Layer::gzip(&raw(b'0', 1 << 60, b"")), "a file of 1152921504606846976 bytes");
    check_refused(Layer::gzip(&raw(b'L', 1 << 40, b"")), "an extended header of 1099511627776 bytes");
    check_refused(Layer::gzip(&raw(b'x', 1 << 21, b"")), "an extended header of 2097152 bytes");
    for pax in
        ["nonsense", "5 a=b\n", "99 path=x\n", "12 size=-12\n", "0 path=x\n", "14 uid=5000000000\n", "13 mtime=1.x\n"]
    {
        let mut layer = raw(b'x', pax.len() as u64, pax.as_bytes());
        layer.extend(raw(b'0', 0, b""));
        check_refused(Layer::gzip(&layer), "a malformed pax header");
    }
    let mut letters = header("a", EntryType::Regular, 0o644, "", 0);
    letters.as_old_mut().uid.copy_from_slice(b"zzzzzzz\0");
    letters.set_cksum();
    check_refused(Layer::gzip(letters.as_bytes()), "uid is no number");
    let deep = "d/".repeat(300);
    let mut long = tar::Builder::new(Vec::new());
    let mut head = header("x", EntryType::Regular, 0o644, "", 0);
    long.append_data(&mut head, format!("{deep}x"), &b""[..]).unwrap();
    check_refused(Layer::gzip(&long.into_inner().unwrap()), "directories deep");
    let component = "n".repeat(300);
    let mut long = tar::Builder::new(Vec::new());
    long.append_data(&mut head, component, &b""[..]).unwrap();
    check_refused(Layer::gzip(&long.into_inner().unwrap()), "File name too long");
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let records = |map: &str, size: u64| {
        let text: String = [("GNU.sparse.size", size.to_string()), ("GNU.sparse.map", map.to_owned())]
            .iter()
            .map(|(key, value)| pax_record(key, value))
            .collect();
        let mut layer = raw(b'x', text.len() as u64, text.as_bytes());
        layer.extend(raw(b'0', 3, b"abc"));
        Layer::gzip(&layer)
    };
    check_refused(records("0,3", 2), "impossible sparse map");
    check_refused(records("5,1,0,2", 10), "impossible sparse map");
    check_refused(records("0,2", 10), "does not fit its data");
    check_refused(records("0", 10), "impossible length");
    check_refused(records("18446744073709551615,3", 10), "malformed pax header");
    check_refused(records("0,3", 1 << 40), "does not fit its data");
}

fn pax_record(key: &str, value: &str) -> String {
    let body = format!(" {key}={value}\n");
    let mut length = body.len() + 1;
    while length.to_string().len() + body.len() != length {
        length += 1;
    }
    format!("{length}{body}")
}

#[test]
fn bombs_are_refused() {
    // 16 MiB of zeros, a gzip of which is 1,000 times smaller, again and again.
    let zeros = support::gzip_at(&vec![0; 16 << 20], flate2::Compression::best());
    let mut blob = gzip(header("bomb", EntryType::Regular, 0o644, "", 8 << 30).as_bytes());
    for _ in 0..24 {
        blob.extend_from_slice(&zeros);
    }
    let layer = Layer { blob, ..Layer::gzip(b"") };
    check_refused(layer, "a decompression bomb");
}

#[test]
fn a_full_disk_is_said_before_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let (reference, _) = registry.put_image("a", "1", &[Layer::gzip(&tar(&[Put::File("a", b"x")]))]);
    let config = coracle_images::Config { reserve: u64::MAX / 2, ..support::config() };
    let images = coracle_images::Images::open(dir.path(), config).unwrap();
    let error = images.ensure(&name(&reference), Policy::Always, &[], &host(), &quiet).unwrap_err();
    assert!(matches!(error, ImageError::Space { .. }) && error.may_pass(), "{error:?}");
    assert!(leftovers(dir.path()).is_empty());
}

#[test]
fn an_unpacking_process_that_dies_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let (reference, _) = registry.put_image("a", "1", &[Layer::gzip(&tar(&[Put::File("a", b"x")]))]);
    let unpacker = coracle_images::Unpacker { program: "/bin/false".into(), arguments: Vec::new() };
    let config = coracle_images::Config { unpacker, ..support::config() };
    let images = coracle_images::Images::open(dir.path(), config).unwrap();
    let error = images.ensure(&name(&reference), Policy::Always, &[], &host(), &quiet).unwrap_err();
    assert!(error.to_string().contains("gave no answer"), "{error}");
    assert!(!leftovers(dir.path()).iter().any(|l| l.starts_with("tmp") || l.starts_with("layers")));
}

fn zstd(tar: &[u8]) -> Layer {
    let blob = ruzstd::encoding::compress_to_vec(tar, ruzstd::encoding::CompressionLevel::Fastest);
    Layer { blob, diff_id: Sha256::of(tar), media_type: "application/vnd.oci.image.layer.v1.tar+zstd" }
}

/// The layer is accepted; answers its directory, which lives as long as the first part.
fn accepted(layer: Layer) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let image = pull(dir.path(), &[layer]).unwrap();
    let root = image.layers.last().unwrap().clone();
    (dir, root)
}

#[test]
fn all_compressions_are_read() {
    let data = noise(3, 700_000);
    let archive = tar(&[Put::File("a", &data)]);
    let (first, second) = archive.split_at(300_000);
    let members = Layer { blob: [gzip(first), gzip(second)].concat(), ..Layer::gzip(&archive) };
    let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..]].concat();
    let frames =
        Layer { blob: [skippable.clone(), zstd(first).blob, skippable, zstd(second).blob].concat(), ..zstd(&archive) };
    // A wrong media type is not believed.
    let misnamed = Layer { media_type: "application/vnd.oci.image.layer.v1.tar+gzip", ..zstd(&archive) };
    for layer in [Layer::gzip(&archive), Layer::plain(&archive), zstd(&archive), members, frames, misnamed] {
        let (_dir, root) = accepted(layer);
        assert_eq!(std::fs::read(root.join("a")).unwrap(), data);
    }
}

#[test]
fn later_entries_win_and_links_inside_hold() {
    use Put::{Dir, File, Hard, Link, Mode};
    let (_dir, root) = accepted(Layer::gzip(&tar(&[
        Dir("./", 0o711),
        File("a", b"old"),
        Mode("a", 0o600, b"new"),
        Dir("d", 0o700),
        Link("e", "d"),
        File("e/x", b"through a link that stays inside"),
        Dir("was-dir", 0o755),
        File("was-dir", b"now a file"),
        Link("s", "/etc/passwd"),
        File("s", b"not written through"),
        Link("t", "/etc/shadow"),
        Hard("u", "t"),
        File("./dotted//twice/./x", b"x"),
        File("v7dir/", b""),
        Dir("d", 0o750),
    ])));
    let read = |path: &str| String::from_utf8(std::fs::read(root.join(path)).unwrap()).unwrap();
    let mode = |path: &str| std::fs::symlink_metadata(root.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(read("a"), "new");
    assert_eq!(mode("a"), 0o600);
    assert_eq!(read("d/x"), "through a link that stays inside");
    assert_eq!(read("was-dir"), "now a file");
    assert_eq!(read("s"), "not written through");
    assert_eq!(std::fs::read_link(root.join("u")).unwrap().to_str(), Some("/etc/shadow"));
    assert_eq!(read("dotted/twice/x"), "x");
    assert!(root.join("v7dir").is_dir());
    assert_eq!((mode(""), mode("d"), mode("dotted")), (0o711, 0o750, 0o755));
    assert_eq!(std::fs::metadata(root.join("d")).unwrap().mtime(), 1_000_000_000);
}

/// One line for each file of a tree, with all that should survive.
fn describe(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let content = if kind.is_file() {
                format!("{} {}", Sha256::of(&std::fs::read(&path).unwrap()), meta.nlink())
            } else if kind.is_symlink() {
                format!("-> {:?}", std::fs::read_link(&path).unwrap())
            } else if kind.is_char_device() || kind.is_block_device() {
                format!("device {}", meta.rdev())
            } else {
                String::new()
            };
            let (name, mode) = (path.strip_prefix(root).unwrap(), meta.mode());
            lines.push(format!("{name:?} {mode:o} {}:{} {} {content}", meta.uid(), meta.gid(), meta.mtime()));
            if kind.is_dir() {
                todo.push(path);
            }
        }
    }
    lines.sort();
    lines
}

/// A command that must succeed.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Needs root: owners, devices, file capabilities.
fn make_tree(root: &Path) {
    use std::os::unix::ffi::OsStrExt;
    let at = |path: &str| root.join(path).to_str().unwrap().to_owned();
    let long: Vec<String> = (0..6).map(|i| format!("{i}{}", "long".repeat(25))).collect();
    std::fs::create_dir_all(root.join(long.join("/"))).unwrap();
    std::fs::write(root.join(long.join("/")).join("file"), noise(5, 3000)).unwrap();
    std::os::unix::fs::symlink("t".repeat(150), root.join("long-target")).unwrap();
    for odd in ["new\nline", "sp ace", "ü", "-dash", "back\\slash", "quote\"", "..three", ".wh", "...", "end."] {
        std::fs::write(root.join(odd), odd).unwrap();
    }
    std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"not-\xff-utf8")), b"x").unwrap();
    for (path, mode) in [("setuid", 0o4755), ("setgid", 0o2711), ("none", 0)] {
        std::fs::write(root.join(path), path).unwrap();
        run("chmod", &[&format!("{mode:o}"), &at(path)]);
    }
    std::fs::create_dir(root.join("sticky")).unwrap();
    run("chmod", &["3777", &at("sticky")]);
    std::fs::write(root.join("sticky/inside"), b"x").unwrap();
    run("chown", &["-h", "1234:5678", &at("long-target"), &at("setgid"), &at("sticky")]);
    run("chmod", &["3777", &at("sticky")]);
    run("chmod", &["2711", &at("setgid")]);
    std::fs::hard_link(root.join("none"), root.join("hard")).unwrap();
    run("mknod", &[&at("null"), "c", "1", "3"]);
    run("mknod", &[&at("loop"), "b", "7", "300"]);
    run("mkfifo", &[&at("fifo")]);
    run("touch", &["-d", "1999-12-31T23:59:59Z", &at("sp ace")]);
}

#[test]
fn every_format_of_tar_gives_the_same_tree() {
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path());
    let root = source.path().to_str().unwrap();
    let archive = source.path().with_extension("tar");
    let file = archive.to_str().unwrap();
    for format in ["gnu", "pax"] {
        run("tar", &["-C", root, "--format", format, "--numeric-owner", "-cf", file, "."]);
        let (_dir, unpacked) = accepted(Layer::gzip(&std::fs::read(&archive).unwrap()));
        assert_eq!(describe(&unpacked), describe(source.path()), "{format}");
    }
    std::fs::remove_file(&archive).unwrap();
}

#[test]
fn ustar_prefixes_are_joined() {
    let source = tempfile::tempdir().unwrap();
    let inner = source.path().join("p".repeat(90)).join("q".repeat(40));
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::write(inner.join("file"), b"x").unwrap();
    let archive = source.path().with_extension("tar");
    run("tar", &["-C", source.path().to_str().unwrap(), "--format", "ustar", "-cf", archive.to_str().unwrap(), "."]);
    let (_dir, unpacked) = accepted(Layer::gzip(&std::fs::read(&archive).unwrap()));
    assert_eq!(describe(&unpacked), describe(source.path()));
    std::fs::remove_file(&archive).unwrap();
}

#[test]
fn sparse_files_stay_sparse_in_every_form() {
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("sparse");
    let mut file = std::fs::File::create(&path).unwrap();
    use std::io::{Seek, SeekFrom};
    for region in 0..30u64 {
        file.seek(SeekFrom::Start(region << 20)).unwrap();
        file.write_all(&noise(region + 1, 5000)).unwrap();
    }
    file.set_len(64 << 20).unwrap();
    let archive = source.path().with_extension("tar");
    let base = ["-C", source.path().to_str().unwrap(), "-S", "-cf", archive.to_str().unwrap()];
    let forms: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ];
    for form in forms {
        run("tar", &[&base[..], form, &["sparse"]].concat());
        let (_dir, root) = accepted(Layer::gzip(&std::fs::read(&archive).unwrap()));
        let unpacked = root.join("sparse");
        assert_eq!(std::fs::read(&unpacked).unwrap(), std::fs::read(&path).unwrap(), "{form:?}");
        assert!(std::fs::metadata(&unpacked).unwrap().blocks() * 512 < 8 << 20, "{form:?} is not sparse");
    }
    std::fs::remove_file(&archive).unwrap();
}

/// A getxattr by the program of the same purpose would need a package; the kernel does.
fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1024];
    let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn attributes_of_the_file_stay_and_those_of_the_host_do_not() {
    // `cap_net_bind_service=ep`, version 2 (linux/capability.h).
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut out = tar::Builder::new(Vec::new());
    let mut text = Vec::new();
    let mut record = |name: &str, value: &[u8]| {
        let body_length = name.len() + value.len() + 3;
        let mut length = body_length + 1;
        while length.to_string().len() + body_length != length {
            length += 1;
        }
        text.extend_from_slice(format!("{length} {name}=").as_bytes());
        text.extend_from_slice(value);
        text.push(b'\n');
    };
    record("SCHILY.xattr.security.capability", &capability);
    record("SCHILY.xattr.user.note", b"a\nb=c");
    record("SCHILY.xattr.trusted.overlay.redirect", b"/etc");
    record("SCHILY.xattr.user.overlay.redirect", b"/etc");
    record("SCHILY.xattr.trusted.other", b"x");
    record("mtime", b"-1.25");
    out.append(&header("pax", EntryType::XHeader, 0o644, "", text.len() as u64), text.as_slice()).unwrap();
    let mut file = header("f", EntryType::Regular, 0o755, "", 1);
    file.set_uid(77);
    file.set_cksum();
    out.append(&file, &b"x"[..]).unwrap();
    out.append(&header("g", EntryType::Regular, 0o755, "", 1), &b"x"[..]).unwrap();
    let (_dir, root) = accepted(Layer::gzip(&out.into_inner().unwrap()));
    let f = root.join("f");
    assert_eq!(xattr(&f, "security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(xattr(&f, "user.note").as_deref(), Some(&b"a\nb=c"[..]));
    for gone in ["trusted.overlay.redirect", "user.overlay.redirect", "trusted.other"] {
        assert_eq!(xattr(&f, gone), None, "{gone}");
    }
    let meta = std::fs::metadata(&f).unwrap();
    assert_eq!((meta.uid(), meta.mtime(), meta.mtime_nsec()), (77, -2, 750_000_000));
    assert_eq!(xattr(&root.join("g"), "user.note"), None, "a pax header is for one entry");
}

#[test]
fn the_child_is_confined() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let (reference, _) = registry.put_image("a", "1", &[Layer::gzip(&tar(&[Put::File("a", b"x")]))]);
    let images = open(dir.path());
    images.ensure(&name(&reference), Policy::Always, &[], &host(), &quiet).unwrap();
    assert_eq!(images.warnings(), Vec::<String>::new(), "Landlock with this kernel (5.19 or newer) is expected");
}
