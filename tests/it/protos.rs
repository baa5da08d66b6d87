//! The committed gRPC clients are what their `.proto` files say: generates them anew and compares.
//! `ORCH_REGENERATE=1` writes the files instead.

use std::path::Path;

/// Where clients are, and what they are made of.
const CLIENTS: &[(&str, &[&str])] = &[
    (
        "src/kubelet/cri",
        &["runtime.proto", "content.proto", "images.proto", "leases.proto", "csi.proto", "registration.proto"],
    ),
    ("src/store/sealed/kms", &["kms.proto"]),
];

#[test]
fn generated_code_matches_the_protos() {
    for (place, protos) in CLIENTS {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join(place);
        let out = tempfile::tempdir().unwrap();
        let descriptors = protox::compile(*protos, [place.join("proto")]).unwrap();
        tonic_prost_build::configure()
            .build_server(false)
            .build_transport(false)
            .btree_map(".")
            .bytes(".containerd")
            .out_dir(out.path())
            .compile_fds(descriptors)
            .unwrap();

        let mut seen = 0;
        for entry in std::fs::read_dir(out.path()).unwrap().map(Result::unwrap) {
            let committed = place.join("generated").join(entry.file_name());
            let fresh = std::fs::read_to_string(entry.path()).unwrap();
            if std::env::var_os("ORCH_REGENERATE").is_some() {
                std::fs::write(&committed, &fresh).unwrap();
            }
            let old = std::fs::read_to_string(&committed).unwrap_or_default();
            assert!(old == fresh, "{} is stale: run this test with ORCH_REGENERATE=1", committed.display());
            seen += 1;
        }
        assert_eq!(seen, protos.len(), "one file a package");
    }
}
