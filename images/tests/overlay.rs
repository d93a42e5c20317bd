//! What overlayfs makes of unpacked layers. Needs root (mounts, owners); the mounts live in mount
//! namespaces of their own and vanish with them.

mod support;

use std::path::Path;
use std::process::Command;

use coracle_images::{Image, Policy};
use support::{Auth, Layer, Put, Registry, host, name, open, quiet, tar};

#[test]
fn child_entry() {
    support::child_entry();
}

/// Mounts the image and lists it: path, kind and mode, owner; with what files hold.
fn listing(image: &Image, scratch: &Path) -> Vec<String> {
    let options = if image.userxattr { "userxattr," } else { "" };
    let script = format!(
        "set -e; cd {layers}; mkdir -p {s}/up {s}/work {s}/merged
         chmod --reference={top} {s}/up
         mount -t overlay overlay -o {options}lowerdir={lower},upperdir={s}/up,workdir={s}/work {s}/merged
         cd {s}/merged
         find . -type f -printf '%P %y %m %U:%G ' -exec cat {{}} ';' -printf '\\n'
         find . ! -type f -printf '%P %y %m %U:%G %l\\n'",
        layers = image.layers_dir.display(),
        lower = image.lowerdir(),
        top = image.layers[0].display(),
        s = scratch.display(),
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "mount as root: {}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(|l| l.trim_end().to_owned()).collect();
    lines.sort();
    lines
}

fn check(layers: &[&[Put<'_>]], expect: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let layers: Vec<Layer> = layers.iter().map(|entries| Layer::gzip(&tar(entries))).collect();
    let (reference, _) = registry.put_image("a", "1", &layers);
    let image = open(dir.path()).ensure(&name(&reference), Policy::Always, &[], &host(), &quiet).unwrap();
    let shown: Vec<String> = listing(&image, scratch.path()).into_iter().filter(|l| !l.starts_with(" d")).collect();
    assert_eq!(shown, expect);
}

use Put::{Dir, File, Mode};

#[test]
fn whiteouts_hide_files_and_directories() {
    check(
        &[
            &[
                Dir("etc", 0o755),
                File("etc/passwd", b"p"),
                File("etc/group", b"g"),
                Dir("opt", 0o755),
                File("opt/x", b"x"),
            ],
            &[Dir("etc", 0o755), File("etc/.wh.passwd", b""), File(".wh.opt", b"")],
        ],
        &["etc d 755 0:0", "etc/group f 644 0:0 g"],
    );
}

#[test]
fn opaque_directories_hide_what_was_in_them() {
    check(
        &[
            &[Dir("data", 0o700), File("data/a", b"a"), Dir("data/sub", 0o700), File("data/sub/b", b"b")],
            &[Dir("data", 0o750), File("data/.wh..wh..opq", b""), File("data/c", b"c")],
        ],
        &["data d 750 0:0", "data/c f 644 0:0 c"],
    );
    // The marker after the files that it does not concern, and without an entry for the directory.
    check(
        &[
            &[Dir("data", 0o700), File("data/a", b"a"), Dir("data/sub", 0o700)],
            &[File("data/c", b"c"), File("data/.wh..wh..opq", b"")],
        ],
        &["data d 700 0:0", "data/c f 644 0:0 c"],
    );
}

#[test]
fn a_directory_that_replaces_what_was_hidden_is_new() {
    let lower: &[Put<'_>] = &[Dir("d", 0o700), File("d/old", b"o")];
    let expect = ["d d 755 0:0", "d/new f 644 0:0 n"];
    check(&[lower, &[File(".wh.d", b""), Dir("d", 0o755), File("d/new", b"n")]], &expect);
    check(&[lower, &[Dir("d", 0o755), File("d/new", b"n"), File(".wh.d", b"")]], &expect);
    check(&[lower, &[File(".wh.d", b"")], &[Dir("d", 0o755), File("d/new", b"n")]], &expect);
    check(&[lower, &[File(".wh.d", b"")], &[File("d/new", b"n")]], &expect);
}

#[test]
fn implied_directories_keep_their_mode() {
    check(
        &[
            &[Dir("tmp", 0o1777), Dir("srv", 0o750), Dir("srv/www", 0o711), File("srv/www/a", b"a")],
            &[File("tmp/x", b"x"), File("srv/www/b", b"b")],
            &[File("tmp/y", b"y"), Mode("srv/www/deep/er/c", 0o600, b"c")],
        ],
        &[
            "srv d 750 0:0",
            "srv/www d 711 0:0",
            "srv/www/a f 644 0:0 a",
            "srv/www/b f 644 0:0 b",
            "srv/www/deep d 755 0:0",
            "srv/www/deep/er d 755 0:0",
            "srv/www/deep/er/c f 600 0:0 c",
            "tmp d 1777 0:0",
            "tmp/x f 644 0:0 x",
            "tmp/y f 644 0:0 y",
        ],
    );
}

#[test]
fn what_is_hidden_gives_no_mode_to_what_is_implied() {
    check(&[&[Dir("d", 0o700)], &[File(".wh.d", b"")], &[File("d/x", b"x")]], &["d d 755 0:0", "d/x f 644 0:0 x"]);
    check(
        &[&[Dir("d", 0o700), Dir("d/e", 0o711)], &[File("d/.wh..wh..opq", b""), File("d/e/x", b"x")]],
        &["d d 700 0:0", "d/e d 755 0:0", "d/e/x f 644 0:0 x"],
    );
    // An explicit entry above an implied one is what counts.
    check(&[&[Dir("d", 0o700)], &[File("d/x", b"x")], &[Dir("d", 0o711)]], &["d d 711 0:0", "d/x f 644 0:0 x"]);
}

#[test]
fn the_root_directory_has_the_mode_that_the_image_gives_it() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let layers = [Layer::gzip(&tar(&[Dir("./", 0o711)])), Layer::gzip(&tar(&[File("x", b"x")]))];
    let (reference, _) = registry.put_image("a", "1", &layers);
    let image = open(dir.path()).ensure(&name(&reference), Policy::Always, &[], &host(), &quiet).unwrap();
    assert_eq!(listing(&image, scratch.path())[0], " d 711 0:0");
}

#[test]
fn a_hundred_and_twenty_seven_layers_stack() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let names: Vec<String> = (0..127).map(|i| format!("tmp/{i:03}")).collect();
    let mut layers: Vec<Layer> = names.iter().map(|n| Layer::gzip(&tar(&[File(n, n.as_bytes())]))).collect();
    layers[0] = Layer::gzip(&tar(&[Dir("tmp", 0o1777), File("tmp/000", b"0")]));
    let (reference, _) = registry.put_image("a", "1", &layers);
    let image = open(dir.path()).ensure(&name(&reference), Policy::Always, &[], &host(), &quiet).unwrap();
    assert_eq!(image.layers.len(), 128, "one more, for the mode of /tmp");
    assert!(image.lowerdir().len() < 3000, "{}", image.lowerdir().len());
    let shown = listing(&image, scratch.path());
    assert_eq!(shown.iter().filter(|l| l.starts_with("tmp/")).count(), 127);
    assert!(shown.contains(&"tmp d 1777 0:0".to_owned()));
}

#[test]
fn a_repeated_layer_is_stacked_once() {
    let same: &[Put<'_>] = &[File("a", b"a")];
    check(&[same, &[File("b", b"b")], same], &["a f 644 0:0 a", "b f 644 0:0 b"]);
}
