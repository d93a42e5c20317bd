//! Against Debian's `docker-registry` and `skopeo` (packages of those names), which other people
//! wrote: plain, with TLS and a CA of its own, and with htpasswd.

mod support;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use coracle_images::{Config, Credential, Images, Platform, Policy};
use support::registry::get;
use support::{Layer, Put, host, image_json, name, noise, quiet, tar};

#[test]
fn child_entry() {
    support::child_entry();
}

/// Ends with the test.
struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Starts a registry whose configuration ends in `more` (YAML below `http` and beside it).
fn serve(dir: &Path, http: &str, more: &str) -> Server {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}/store}}}}\n\
         http:\n  addr: {address}\n{http}{more}",
        dir.display()
    );
    let file = dir.join("registry.yml");
    std::fs::write(&file, text).unwrap();
    let log = std::fs::File::create(dir.join("registry.log")).unwrap();
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("the package docker-registry is installed by scripts/test.sh");
    let mut server = Server { child, address };
    while get(&server.address, "/v2/").is_none() {
        if let Some(status) = server.child.try_wait().unwrap() {
            panic!("docker-registry: {status}: {}", std::fs::read_to_string(dir.join("registry.log")).unwrap());
        }
        std::thread::yield_now();
    }
    server
}

/// An OCI layout directory with one image for this machine, as `skopeo` reads it.
fn layout(dir: &Path, compress: fn(&[u8]) -> Layer) -> (PathBuf, Vec<u8>) {
    let data = noise(11, 2_000_000);
    let layers = [
        compress(&tar(&[Put::Dir("etc", 0o755), Put::File("etc/a", b"a")])),
        compress(&tar(&[Put::File("etc/.wh.a", b""), Put::File("big", &data)])),
    ];
    let (config, manifest) = image_json(&layers, &host());
    let root = dir.join(format!("layout-{}", layers[0].digest().hex()));
    let blobs = root.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    for blob in layers.iter().map(|l| &l.blob).chain([&config, &manifest]) {
        std::fs::write(blobs.join(coracle_images::Sha256::of(blob).hex()), blob).unwrap();
    }
    let Platform { os, architecture, .. } = host();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": coracle_images::Sha256::of(&manifest).to_string(), "size": manifest.len(),
        "platform": {"os": os, "architecture": architecture},
        "annotations": {"org.opencontainers.image.ref.name": "1"},
    }]});
    std::fs::write(root.join("index.json"), index.to_string()).unwrap();
    std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    (root, data)
}

fn push(layout: &Path, server: &Server, tag: &str, more: &[&str]) {
    let from = format!("oci:{}:1", layout.display());
    let to = format!("docker://{}/team/app:{tag}", server.address);
    run("skopeo", &[&["copy", "-q", "--dest-tls-verify=false"], more, &[&from, &to]].concat());
}

fn pull(dir: &Path, server: &Server, tag: &str, settings: &str, credentials: &[Credential]) -> Result<Vec<u8>, String> {
    let file = dir.join("registries.json");
    std::fs::write(&file, settings.replace("ADDRESS", &server.address)).unwrap();
    let images = Images::open(&dir.join("images"), Config { registries: Some(file), ..support::config() }).unwrap();
    let reference = name(&format!("{}/team/app:{tag}", server.address));
    let image = images.ensure(&reference, Policy::Always, credentials, &host(), &quiet).map_err(|e| e.to_string())?;
    Ok(std::fs::read(image.layers[0].join("big")).unwrap())
}

#[test]
fn plain_with_oci_and_docker_manifests() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), "", "");
    let (gzipped, data) = layout(dir.path(), Layer::gzip);
    for (tag, form) in [("oci", "--format=oci"), ("docker", "--format=v2s2")] {
        push(&gzipped, &server, tag, &[form]);
        assert_eq!(pull(dir.path(), &server, tag, "{}", &[]).unwrap(), data, "{tag}");
    }
    let (plain, data) = layout(dir.path(), Layer::plain);
    push(&plain, &server, "zstd", &["--format=oci", "--dest-compress-format=zstd"]);
    let at = format!("docker://{}/team/app:zstd", server.address);
    assert!(run("skopeo", &["inspect", "--raw", "--tls-verify=false", &at]).contains("+zstd"));
    assert_eq!(pull(dir.path(), &server, "zstd", "{}", &[]).unwrap(), data);
    let missing = pull(dir.path(), &server, "none", "{}", &[]).unwrap_err();
    assert!(missing.contains("MANIFEST_UNKNOWN"), "{missing}");
}

#[test]
fn with_a_ca_of_its_own_and_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    run(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &at("key.pem"),
            "-out",
            &at("ca.pem"),
        ],
    );
    // bcrypt of `secret`, which docker-registry asks for.
    let hash = "user:$2b$05$jnKntx0zKA4xEzY70PvI2urkS3MUz6IgzZ.e6p5w8kjICotvok.Tu\n";
    std::fs::write(dir.path().join("htpasswd"), hash).unwrap();
    let http = format!("  tls: {{certificate: {}, key: {}}}\n", at("ca.pem"), at("key.pem"));
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", at("htpasswd"));
    let server = serve(dir.path(), &http, &auth);
    let (layout, data) = layout(dir.path(), Layer::gzip);
    push(&layout, &server, "1", &["--dest-creds=user:secret"]);
    let settings = format!(r#"{{"registries":{{"ADDRESS":{{"plainHttp":false,"ca":"{}"}}}}}}"#, at("ca.pem"));
    let right = [Credential::new(&server.address, "user", "secret")];
    let wrong = [Credential::new(&server.address, "user", "guess")];
    assert_eq!(pull(dir.path(), &server, "1", &settings, &right).unwrap(), data);
    let refused = pull(dir.path(), &server, "1", &settings, &wrong).unwrap_err();
    assert!(refused.contains("401") && refused.contains("as user \"user\""), "{refused}");
    let unknown =
        pull(dir.path(), &server, "1", r#"{"registries":{"ADDRESS":{"plainHttp":false}}}"#, &right).unwrap_err();
    assert!(unknown.contains("registries.json"), "{unknown}");
    let plain = pull(dir.path(), &server, "1", "{}", &right).unwrap_err();
    assert!(plain.contains("400") || plain.contains("HTTP"), "{plain}");
}
