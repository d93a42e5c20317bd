use super::*;

const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn descriptor(media_type: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{D}","size":7}}"#)
}

fn entry(os: &str, arch: &str, variant: &str) -> String {
    format!(
        r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{}","size":7,
            "platform":{{"os":"{os}","architecture":"{arch}","variant":"{variant}"}}}}"#,
        Sha256::of(format!("{os}{arch}{variant}").as_bytes()).hex()
    )
}

fn manifest(layers: &[String]) -> String {
    format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        descriptor("application/vnd.oci.image.config.v1+json"),
        layers.join(",")
    )
}

/// What parsing says: the kind and count, or the problem.
fn check(json: &str, content_type: &str, expect: &str) {
    let got = match Document::parse("x", json.as_bytes(), content_type) {
        Ok(Document::Index(entries)) => format!("index of {}", entries.len()),
        Ok(Document::Manifest(m)) => format!("manifest of {}", m.layers.len()),
        Err(error) => error.to_string(),
    };
    assert!(got.contains(expect), "{json}: {got}");
}

#[test]
fn reads_oci_and_docker_documents() {
    let gzip = descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip");
    let zstd = descriptor("application/vnd.oci.image.layer.v1.tar+zstd");
    check(&manifest(&[gzip.clone(), zstd]), "", "manifest of 2");
    check(&manifest(&[]), "", "manifest of 0");
    check(&format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entry("linux", "amd64", "")), "", "index of 1");
    check(&manifest(&vec![gzip.clone(); 127]), "", "manifest of 127");
    check(&manifest(&vec![gzip.clone(); 128]), "", "at most 127");
    check(&manifest(&[descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip")]), "", "is not a layer");
    check(r#"{"schemaVersion":1,"fsLayers":[]}"#, "", "schema 1 is not supported");
    check("{}", "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1 is not supported");
    check("{}", "text/html", "neither an index nor");
    check("[", "", "not a manifest");
    check(&gzip.replace("sha256:", "sha512:"), "", "neither");
    check(&manifest(&[gzip.replace("sha256:", "sha512:")]), "", "is not a digest");
    check(&manifest(&[gzip.replace("7", "-7")]), "", "not a manifest");
}

fn pick(index: &[(&str, &str, &str)], node: (&str, &str), expect: Option<usize>) {
    let entries: Vec<String> = index.iter().map(|(o, a, v)| entry(o, a, v)).collect();
    let json = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    let Ok(Document::Index(entries)) = Document::parse("x", json.as_bytes(), "") else { panic!("{json}") };
    let chosen = select("x", &entries, &Platform::new("linux", node.0, node.1)).ok();
    assert_eq!(chosen, expect.map(|i| &entries[i]), "{index:?} on {node:?}");
}

#[test]
fn chooses_the_best_platform() {
    let arms = [("linux", "arm", "v5"), ("linux", "arm", "v7"), ("linux", "arm", "v6"), ("linux", "arm64", "v8")];
    pick(&arms, ("arm", "v8"), Some(1));
    pick(&arms, ("arm", "v7"), Some(1));
    pick(&arms, ("arm", "v6"), Some(2));
    pick(&arms, ("arm64", "v8"), Some(3));
    pick(&arms, ("amd64", ""), None);
    pick(&[("windows", "amd64", ""), ("unknown", "unknown", "")], ("amd64", ""), None);
    pick(&[("linux", "amd64", "v3"), ("linux", "amd64", "")], ("amd64", ""), Some(1));
}

#[test]
fn the_refusal_says_what_there_is() {
    let index: Vec<Descriptor> = [("linux", "arm64"), ("unknown", "unknown")]
        .map(|(os, arch)| Descriptor {
            media_type: String::new(),
            digest: D.parse().unwrap(),
            size: 1,
            platform: Some(Platform::new(os, arch, "")),
        })
        .to_vec();
    let error = select("r.io/a:1", &index, &Platform::new("linux", "amd64", "")).unwrap_err().to_string();
    assert_eq!(error, "image r.io/a:1 is not built for linux/amd64, only for linux/arm64");
}

#[test]
fn reads_configurations() {
    let json = format!(
        r#"{{"os":"linux","architecture":"arm","variant":"v7","rootfs":{{"type":"layers","diff_ids":["{D}"]}},
            "config":{{"Env":["A=b"],"Entrypoint":null,"Cmd":["/bin/sh"],"Volumes":{{"/data":{{}}}},
            "ExposedPorts":{{"80/tcp":{{}}}},"WorkingDir":"/w","User":"1:2","StopSignal":"SIGINT","Labels":null}}}}"#
    );
    let parsed = Configuration::parse("x", json.as_bytes(), 1).unwrap();
    assert_eq!(parsed.platform, Platform::new("linux", "arm", "v7"));
    assert_eq!(parsed.config.cmd, ["/bin/sh"]);
    assert_eq!(parsed.config.volumes, ["/data"]);
    assert_eq!(parsed.config.exposed_ports, ["80/tcp"]);
    assert_eq!((parsed.config.workdir.as_str(), parsed.config.user.as_str()), ("/w", "1:2"));
    assert!(Configuration::parse("x", json.as_bytes(), 2).is_err());
    assert!(Configuration::parse("x", b"{}", 0).is_err());
}
