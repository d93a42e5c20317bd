//! Collection by disk pressure, and what a start finds and sweeps.

mod support;

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use coracle_images::{Image, Images, Policy, Pressure, Sha256};
use support::{Auth, Layer, Put, Registry, host, leftovers, name, open, quiet, tar};

#[test]
fn child_entry() {
    support::child_entry();
}

/// Always under pressure: a file system is never less than 0 % full.
const FULL: Pressure = Pressure { high: 0, low: 0 };
const HOUR: Duration = Duration::from_secs(3600);

fn pull(images: &Images, registry: &Registry, repository: &str, files: &[&str]) -> Image {
    let layers: Vec<Layer> =
        files.iter().map(|f| Layer::gzip(&tar(&[Put::Dir("./", 0o755), Put::File(f, f.as_bytes())]))).collect();
    let (reference, _) = registry.put_image(repository, "1", &layers);
    images.ensure(&name(&reference), Policy::Always, &[], &host(), &quiet).unwrap()
}

fn layers_on_disk(dir: &Path) -> usize {
    leftovers(dir).iter().filter(|l| l.starts_with("layers/")).count()
}

#[test]
fn what_is_not_in_use_goes_and_shared_layers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let images = open(dir.path());
    let used = pull(&images, &registry, "used", &["base", "used"]);
    let unused = pull(&images, &registry, "unused", &["base", "unused"]);
    let in_use = HashSet::from([used.id]);
    let now = SystemTime::now();
    assert_eq!(images.gc(&in_use, FULL, now).unwrap().images, [], "both were asked for just now");
    assert_eq!(images.gc(&in_use, Pressure { high: 101, low: 101 }, now + HOUR).unwrap().images, []);
    let collected = images.gc(&in_use, FULL, now + HOUR).unwrap();
    assert_eq!((collected.images, collected.layers, collected.bytes), (vec![unused.id], 1, 6));
    assert_eq!(layers_on_disk(dir.path()), 2);
    assert!(used.layers.iter().all(|l| l.exists()));
    assert!(!unused.layers[0].exists());
    let gone = format!("{}/unused:1", registry.address());
    assert!(images.ensure(&name(&gone), Policy::Never, &[], &host(), &quiet).is_err());
    let again = images.ensure(&name(&gone), Policy::IfNotPresent, &[], &host(), &quiet).unwrap();
    assert_eq!(std::fs::read(again.layers[0].join("unused")).unwrap(), b"unused");
    assert!(!leftovers(dir.path()).iter().any(|l| l.starts_with("tmp")));
}

#[test]
fn the_least_recently_used_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let images = open(dir.path());
    let ids: Vec<Sha256> = ["a", "b", "c"].map(|n| pull(&images, &registry, n, &[n]).id).to_vec();
    // As if they had last been used one, three and two hours ago.
    for (id, hours) in ids.iter().zip([1, 3, 2]) {
        let file = std::fs::File::options().append(true).open(dir.path().join(format!("images/{}.json", id.hex())));
        file.unwrap().set_modified(SystemTime::now() - HOUR * hours).unwrap();
    }
    let collected = images.gc(&HashSet::new(), FULL, SystemTime::now()).unwrap();
    assert_eq!(collected.images, [ids[1], ids[2], ids[0]]);
    assert_eq!(layers_on_disk(dir.path()), 0);
}

#[test]
fn a_start_sweeps_what_was_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let image = pull(&open(dir.path()), &registry, "a", &["a"]);
    let nested = dir.path().join("tmp/7/fs/half/done");
    std::fs::create_dir_all(&nested).unwrap();
    std::fs::write(nested.join("file"), b"x").unwrap();
    // A layer without its record was never given its name by this program.
    std::fs::create_dir_all(dir.path().join("layers/0123/fs")).unwrap();
    // A name of an image that is gone says nothing.
    let images = open(dir.path());
    assert_eq!(layers_on_disk(dir.path()), 1);
    assert!(!dir.path().join("tmp/7").exists());
    assert!(image.layers[0].exists());
    drop(images);
    std::fs::remove_dir_all(dir.path().join("layers")).unwrap();
    let images = open(dir.path());
    let reference = format!("{}/a:1", registry.address());
    assert!(images.ensure(&name(&reference), Policy::Never, &[], &host(), &quiet).is_err());
    images.ensure(&name(&reference), Policy::IfNotPresent, &[], &host(), &quiet).unwrap();
    assert_eq!(layers_on_disk(dir.path()), 1, "fetched again");
}

#[test]
fn old_partial_downloads_are_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let partial = dir.path().join("partial").join(Sha256::of(b"x").hex());
    std::fs::write(&partial, b"beginning").unwrap();
    let never = Pressure { high: 101, low: 101 };
    images.gc(&HashSet::new(), never, SystemTime::now() + HOUR).unwrap();
    assert!(partial.exists());
    images.gc(&HashSet::new(), never, SystemTime::now() + HOUR * 25).unwrap();
    assert!(!partial.exists());
}
