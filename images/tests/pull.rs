//! Pulls from a registry in this process: names, authentication, broken connections, wrong bytes.

mod support;

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use coracle_images::{Credential, Event, Image, ImageError, Images, Platform, Policy, Sha256};
use support::{Auth, Fault, Layer, Put, Registry, host, leftovers, name, noise, open, quiet, tar};

#[test]
fn child_entry() {
    support::child_entry();
}

fn ensure(images: &Images, image: &str) -> Result<Image, ImageError> {
    images.ensure(&name(image), Policy::IfNotPresent, &[], &host(), &quiet)
}

fn two_layers() -> Vec<Layer> {
    let base = tar(&[Put::Dir("bin", 0o755), Put::Mode("bin/su", 0o4755, b"su"), Put::Link("sh", "/bin/su")]);
    let top =
        tar(&[Put::Dir("etc", 0o700), Put::File("etc/big", &noise(1, 3_000_000)), Put::Hard("etc/two", "etc/big")]);
    vec![Layer::gzip(&base), Layer::gzip(&top)]
}

/// An image of two layers is there: files, modes, links.
fn assert_whole(image: &Image) {
    let [top, base] = image.layers.as_slice() else { panic!("{:?}", image.layers) };
    let su = std::fs::metadata(base.join("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.mtime()), (0o4755, 1_000_000_000));
    assert_eq!(std::fs::read_link(base.join("sh")).unwrap().to_str(), Some("/bin/su"));
    assert_eq!(std::fs::read(top.join("etc/big")).unwrap(), noise(1, 3_000_000));
    assert_eq!(std::fs::metadata(top.join("etc/two")).unwrap().nlink(), 2);
    assert_eq!(std::fs::metadata(top.join("etc")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(image.config.cmd, ["/bin/true"]);
    assert!(image.lowerdir().len() < 40, "{}", image.lowerdir());
}

#[test]
fn pulls_once_and_finds_it_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let (reference, digest) = registry.put_image("team/app", "1", &two_layers());
    let images = open(dir.path());
    let image = ensure(&images, &reference).unwrap();
    assert_whole(&image);
    assert_eq!(image.id, digest);
    assert_eq!(image.pinned, format!("{}/team/app@{digest}", registry.address()));
    let asked = registry.requests("").len();
    assert_whole(&ensure(&images, &reference).unwrap());
    drop(images);
    assert_whole(&ensure(&open(dir.path()), &reference).unwrap());
    assert_eq!(registry.requests("").len(), asked, "what is present is not asked for");
    assert!(!leftovers(dir.path()).iter().any(|l| l.starts_with("tmp") || l.starts_with("partial")));
}

#[test]
fn one_process_at_a_time_holds_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _held = open(dir.path());
    let error = Images::open(dir.path(), support::config()).err().unwrap().to_string();
    assert!(error.contains("another agent"), "{error}");
}

#[test]
fn policies_say_when_to_ask() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let images = open(dir.path());
    let (reference, first) = registry.put_image("a", "1", &two_layers());
    let ask = |policy| images.ensure(&name(&reference), policy, &[], &host(), &quiet);
    assert_eq!(ask(Policy::Never).unwrap_err().reason(), "ErrImageNeverPull");
    assert_eq!(ask(Policy::IfNotPresent).unwrap().id, first);
    let (_, second) = registry.put_image("a", "1", &two_layers()[..1]);
    assert_eq!(ask(Policy::IfNotPresent).unwrap().id, first);
    assert_eq!(ask(Policy::Always).unwrap().id, second);
    assert_eq!(ask(Policy::Never).unwrap().id, second);
    let pinned = format!("{}/a@{first}", registry.address());
    assert_eq!(ensure(&images, &pinned).unwrap().id, first);
}

fn check_auth(auth: Auth, credential: Option<(&str, &str)>, expect: Result<(), &str>) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(auth);
    let (reference, _) = registry.put_image("p/a", "1", &two_layers());
    let credentials: Vec<Credential> =
        credential.map(|(user, password)| Credential::new(registry.address(), user, password)).into_iter().collect();
    let got = open(dir.path()).ensure(&name(&reference), Policy::Always, &credentials, &host(), &quiet);
    match (got, expect) {
        (Ok(image), Ok(())) => assert_whole(&image),
        (Err(error), Err(expect)) => {
            assert!(error.to_string().contains(expect), "{auth:?} {credential:?}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
            assert!(leftovers(dir.path()).is_empty());
        }
        (got, _) => panic!("{auth:?} {credential:?}: {got:?}"),
    }
}

#[test]
fn authenticates_as_the_registry_asks() {
    let right = Some(("user", "secret"));
    check_auth(Auth::Basic, right, Ok(()));
    check_auth(Auth::Basic, None, Err("no credential is given for this registry"));
    check_auth(Auth::Basic, Some(("user", "secrets")), Err("as user \"user\""));
    check_auth(Auth::Token, None, Ok(()));
    check_auth(Auth::Token, right, Ok(()));
    check_auth(Auth::PrivateToken, right, Ok(()));
    check_auth(Auth::PrivateToken, None, Err("DENIED: wrong user or password"));
    check_auth(Auth::PrivateToken, Some(("user", "secrets")), Err("DENIED"));
    check_auth(Auth::None, right, Ok(()));
}

#[test]
fn one_token_serves_a_whole_pull() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::Token);
    let (reference, _) = registry.put_image("p/a", "1", &two_layers());
    ensure(&open(dir.path()), &reference).unwrap();
    assert_eq!(registry.requests("/token").len(), 1);
}

#[test]
fn redirects_do_not_carry_credentials_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (front, store) = (Registry::start(Auth::Basic), Registry::start(Auth::None));
    let layers = two_layers();
    let (reference, _) = front.put_image("a", "1", &layers);
    for layer in &layers {
        let digest = store.put_blob(&layer.blob);
        front.fault(&digest.to_string(), Fault::Redirect(format!("http://{}/v2/x/blobs/{digest}", store.address())));
    }
    let credentials = [Credential::new(front.address(), "user", "secret")];
    let image = open(dir.path()).ensure(&name(&reference), Policy::Always, &credentials, &host(), &quiet).unwrap();
    assert_whole(&image);
    let seen = store.requests("/blobs/");
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|r| r.authorization.is_empty()), "{seen:?}");
}

#[test]
fn a_redirect_in_a_circle_ends() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let (reference, _) = registry.put_image("a", "1", &two_layers());
    registry.fault("a/1", Fault::Redirect("/v2/a/manifests/1".into()));
    let error = ensure(&open(dir.path()), &reference).unwrap_err().to_string();
    assert!(error.contains("redirects without end"), "{error}");
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let layers = two_layers();
    let big = layers[1].digest().to_string();
    let (reference, _) = registry.put_image("a", "1", &layers);
    registry.fault(&big, Fault::Cut { after: 1_000_000, times: 2 });
    assert_whole(&ensure(&open(dir.path()), &reference).unwrap());
    let ranges: Vec<String> = registry.requests(&big).into_iter().map(|r| r.range).collect();
    assert_eq!(ranges, ["", "bytes=1000000-", "bytes=2000000-"]);
}

#[test]
fn a_later_process_goes_on_with_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let layers = two_layers();
    let big = layers[1].digest();
    let (reference, _) = registry.put_image("a", "1", &layers);
    std::fs::create_dir_all(dir.path().join("partial")).unwrap();
    let partial = dir.path().join("partial").join(big.hex());
    std::fs::write(&partial, &layers[1].blob[..500_000]).unwrap();
    let images = open(dir.path());
    assert_whole(&ensure(&images, &reference).unwrap());
    assert_eq!(registry.requests(&big.to_string())[0].range, "bytes=500000-");
    assert!(!partial.exists());
}

#[test]
fn a_spoilt_beginning_is_noticed_and_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let layers = two_layers();
    let big = layers[1].digest();
    let (reference, _) = registry.put_image("a", "1", &layers);
    std::fs::create_dir_all(dir.path().join("partial")).unwrap();
    std::fs::write(dir.path().join("partial").join(big.hex()), vec![0; 500_000]).unwrap();
    assert_whole(&ensure(&open(dir.path()), &reference).unwrap());
    let ranges: Vec<String> = registry.requests(&big.to_string()).into_iter().map(|r| r.range).collect();
    assert_eq!(ranges, ["bytes=500000-", ""]);
}

#[test]
fn a_registry_without_ranges_is_resumed_too() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let layers = two_layers();
    let big = layers[1].digest();
    let (reference, _) = registry.put_image("a", "1", &layers);
    registry.fault(&big.to_string(), Fault::NoRange);
    std::fs::create_dir_all(dir.path().join("partial")).unwrap();
    std::fs::write(dir.path().join("partial").join(big.hex()), &layers[1].blob[..500_000]).unwrap();
    assert_whole(&ensure(&open(dir.path()), &reference).unwrap());
}

#[test]
fn an_overloaded_registry_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let layers = two_layers();
    let (reference, _) = registry.put_image("a", "1", &layers);
    registry.fault(&layers[0].digest().to_string(), Fault::Status(503, 1));
    assert_whole(&ensure(&open(dir.path()), &reference).unwrap());
}

/// The pull fails with this reason, and nothing is left behind.
fn check_refused(spoil: impl Fn(&Registry, &[Layer]), expect: &str) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let layers = two_layers();
    let (reference, _) = registry.put_image("a", "1", &layers);
    spoil(&registry, &layers);
    let error = ensure(&open(dir.path()), &reference).unwrap_err();
    assert!(error.to_string().contains(expect), "expected {expect:?}: {error}");
    assert_eq!(error.reason(), "ErrImagePull");
    assert_eq!(leftovers(dir.path()), Vec::<String>::new(), "{error}");
}

#[test]
fn wrong_bytes_are_refused() {
    let key = |layer: &Layer| layer.digest().to_string();
    check_refused(|r, l| r.fault(&key(&l[1]), Fault::Corrupt), "digest mismatch: expected sha256:");
    check_refused(|r, _| r.fault("a/1", Fault::Status(404, 9)), "not found at http://127.0.0.1");
    check_refused(|r, _| r.fault("a/1", Fault::Status(418, 9)), "answered 418: UNAVAILABLE: come back later");
    let (_, manifest) = support::image_json(&two_layers(), &host());
    let config = serde_json::from_slice::<serde_json::Value>(&manifest).unwrap()["config"]["digest"].clone();
    // By its own digest, not by what it says of the layers.
    let words = format!("{}: digest mismatch", config.as_str().unwrap());
    check_refused(|r, _| r.fault(config.as_str().unwrap(), Fault::Corrupt), &words);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let put = |r: &Registry, bytes: &[u8]| {
        r.put_manifest("a", "1", media_type, bytes);
    };
    check_refused(|r, _| put(r, &vec![b' '; 5 << 20]), "more than 4194304 bytes");
    check_refused(|r, _| put(r, b"{\"schemaVersion\":1}"), "schema 1 is not");
}

#[test]
fn a_pinned_image_is_the_one_that_was_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let (_, digest) = registry.put_image("a", "1", &two_layers());
    let pinned = format!("{}/a@{digest}", registry.address());
    registry.fault(&format!("a/{digest}"), Fault::Corrupt);
    let error = ensure(&open(dir.path()), &pinned).unwrap_err().to_string();
    assert!(error.contains("digest mismatch") && error.contains("manifests"), "{error}");
    registry.mend();
    assert_whole(&ensure(&open(dir.path()), &pinned).unwrap());
}

#[test]
fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let mut layers = two_layers();
    layers[0].diff_id = Sha256::of(b"another");
    let (reference, _) = registry.put_image("a", "1", &layers);
    let error = ensure(&open(dir.path()), &reference).unwrap_err().to_string();
    assert!(error.contains("unpacked layer") && error.contains("digest mismatch"), "{error}");
    assert!(leftovers(dir.path()).is_empty());
}

#[test]
fn a_network_that_stays_away_keeps_the_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let layers = two_layers();
    let big = layers[1].digest();
    let (reference, _) = registry.put_image("a", "1", &layers);
    registry.fault(&big.to_string(), Fault::Cut { after: 100_000, times: 1 });
    let images = open(dir.path());
    // Stopped when the connection broke, as an agent that is told to stop does.
    let progress = |event: Event| match event {
        Event::Layer { digest, bytes, .. } if digest == big && bytes > 500_000 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let got = images.ensure(&name(&reference), Policy::Always, &[], &host(), &progress);
    assert!(matches!(got, Err(ImageError::Cancelled)), "{got:?}");
    let left = leftovers(dir.path());
    assert!(left.contains(&format!("partial/{}", big.hex())), "{left:?}");
    assert!(!left.iter().any(|l| l.starts_with("tmp") || l.starts_with("layers")), "{left:?}");
    assert_whole(&ensure(&images, &reference).unwrap());
    assert!(registry.requests(&big.to_string()).last().unwrap().range.starts_with("bytes="));
}

#[test]
fn chooses_the_platform_from_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let foreign = Platform::new("linux", "s390x", "");
    let layers = two_layers();
    let mut entries = Vec::new();
    for platform in [&foreign, &host()] {
        let digest = registry.put_platform_image("m", &platform.architecture, &layers, platform);
        entries.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.to_string(), "size": 1000,
            "platform": {"os": platform.os, "architecture": platform.architecture},
        }));
    }
    let index = |entries: &[serde_json::Value]| {
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": entries})).unwrap()
    };
    let media_type = "application/vnd.oci.image.index.v1+json";
    registry.put_manifest("m", "all", media_type, &index(&entries));
    registry.put_manifest("m", "foreign", media_type, &index(&entries[..1]));
    let images = open(dir.path());
    let at = |tag: &str| format!("{}/m:{tag}", registry.address());
    assert_whole(&ensure(&images, &at("all")).unwrap());
    let refused = ensure(&images, &at("foreign")).unwrap_err().to_string();
    assert!(refused.contains("is not built for linux/") && refused.contains("only for linux/s390x"), "{refused}");
    let plain = ensure(&images, &at("s390x")).unwrap_err().to_string();
    assert!(plain.contains("only for linux/s390x"), "{plain}");
    let all = Images::platforms(&Default::default(), &name(&at("all")), &[]).unwrap();
    assert_eq!(all.len(), 2);
    assert!(all.contains(&foreign));
    assert_eq!(Images::platforms(&Default::default(), &name(&at("s390x")), &[]).unwrap(), [foreign]);
}

#[test]
fn mirrors_come_first_and_the_registry_last() {
    let dir = tempfile::tempdir().unwrap();
    let (origin, mirror) = (Registry::start(Auth::None), Registry::start(Auth::None));
    let (reference, _) = mirror.put_image("a", "1", &two_layers());
    let reference = reference.replace(mirror.address(), origin.address());
    origin.put_image("only-here", "1", &two_layers());
    let file = dir.path().join("registries.json");
    let content = |url: &str| {
        let entry = serde_json::json!({"mirrors": ["http://127.0.0.1:1", url]});
        serde_json::json!({"registries": {origin.address(): entry}}).to_string()
    };
    std::fs::write(&file, content("http://127.0.0.1:2")).unwrap();
    let config = coracle_images::Config { registries: Some(file.clone()), ..support::config() };
    let images = Images::open(&dir.path().join("images"), config).unwrap();
    assert!(matches!(ensure(&images, &reference), Err(ImageError::NotFound { .. })));
    // Read again without a restart.
    std::fs::write(&file, content(&format!("http://{}", mirror.address()))).unwrap();
    assert_whole(&ensure(&images, &reference).unwrap());
    assert_whole(&ensure(&images, &format!("{}/only-here:1", origin.address())).unwrap());
}

#[test]
fn pulls_at_once_share_their_downloads() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let layers = two_layers();
    let shared = layers[1].digest().to_string();
    let (one, _) = registry.put_image("one", "1", &layers);
    let (two, _) = registry.put_image("two", "1", &layers[1..]);
    let images = open(dir.path());
    std::thread::scope(|scope| {
        let pulls: Vec<_> = [&one, &two, &one, &two].map(|r| scope.spawn(|| ensure(&images, r))).into_iter().collect();
        for pull in pulls {
            pull.join().unwrap().unwrap();
        }
    });
    assert_eq!(registry.requests(&shared).len(), 1);
    assert_eq!(leftovers(dir.path()).iter().filter(|l| l.starts_with("layers")).count(), 2);
}

#[test]
fn says_what_it_is_doing() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(Auth::None);
    let layers = two_layers();
    let (reference, id) = registry.put_image("a", "1", &layers);
    let events = Mutex::new(Vec::new());
    let progress = |event: Event| {
        events.lock().unwrap().push(event);
        ControlFlow::Continue(())
    };
    open(dir.path()).ensure(&name(&reference), Policy::Always, &[], &host(), &progress).unwrap();
    let events = events.into_inner().unwrap();
    let missing_bytes = layers.iter().map(|l| l.blob.len() as u64).sum();
    assert_eq!(events[0], Event::Resolved { id, layers: 2, missing_layers: 2, missing_bytes });
    for layer in &layers {
        let (digest, total) = (layer.digest(), layer.blob.len() as u64);
        assert!(events.contains(&Event::Layer { digest, bytes: total, total }));
        assert!(events.contains(&Event::Unpacked { digest }));
    }
}
