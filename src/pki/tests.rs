use std::os::unix::fs::PermissionsExt;

use super::*;
use test_case::test_case;
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: i64 = 86_400;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// 2026-06-01.
fn t0() -> Timestamp {
    at(1_780_272_000)
}

fn after(days: i64) -> Timestamp {
    at(t0().as_second() + days * DAY)
}

fn config() -> PkiConfig {
    PkiConfig {
        node_name: "n1".into(),
        node_ips: vec!["192.0.2.7".parse().unwrap()],
        service_ips: vec!["10.43.0.1".parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        tls_sans: vec!["api.example.com".into()],
        life_seconds: None,
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_first_start_makes_everything_and_later_starts_reuse_it() {
    let dir = tempfile::tempdir().unwrap();
    let tls = dir.path().join("server/tls");
    let first = Pki::open(&tls, &config(), t0()).unwrap();
    let again = Pki::open(&tls, &config(), after(30)).unwrap();
    assert_eq!(first.server_ca.sha256(), again.server_ca.sha256());
    assert_eq!(first.serving.cert_pem, again.serving.cert_pem);
    assert_eq!(first.admin.key_pem, again.admin.key_pem);
    assert_eq!(first.service_account_keys[0].private, again.service_account_keys[0].private);
    assert_eq!(mode(&tls), 0o700);
    for entry in std::fs::read_dir(&tls).unwrap().map(Result::unwrap) {
        let secret = entry.path().extension().is_some_and(|e| e == "key");
        assert_eq!(mode(&entry.path()), if secret { 0o600 } else { 0o644 }, "{}", entry.path().display());
    }
}

#[test]
fn the_serving_certificate_has_every_name() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &config(), t0()).unwrap();
    let chain = pki.serving.chain().unwrap();
    let (_, cert) = X509Certificate::from_der(&chain[0]).unwrap();
    let sans = profile::sans(&cert);
    for name in [
        "localhost",
        "127.0.0.1",
        "::1",
        "n1",
        "192.0.2.7",
        "10.43.0.1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "api.example.com",
    ] {
        assert!(sans.contains(&name.to_owned()), "{name} is not among {sans:?}");
    }
    assert_eq!(cert.validity().not_before.timestamp(), t0().as_second() - 3600);
    let chain = pki.kubelet.chain().unwrap();
    let (_, cert) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(profile::subject(&cert), ("system:node:n1".into(), vec!["system:nodes".into()]));
}

#[test_case(274, false; "91 days before the end it stays")]
#[test_case(276, true; "89 days before the end it is new")]
#[test_case(400, true; "an expired one is new")]
#[test_case(-40, true; "one that begins in the future is new")]
fn certificates_are_issued_again_in_time(days: i64, renewed: bool) {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), &config(), t0()).unwrap();
    let later = first.renewed(after(days)).unwrap();
    assert_eq!(first.serving.cert_pem != later.serving.cert_pem, renewed);
    assert_eq!(first.kubelet.cert_pem != later.kubelet.cert_pem, renewed);
    assert_eq!(first.server_ca.cert_pem, later.server_ca.cert_pem, "the CA never changes");
}

#[test_case(30; "the shortest")]
#[test_case(600)]
#[test_case(86_400; "a day")]
fn short_lives_are_renewed_when_a_quarter_is_left(life: i64) {
    let dir = tempfile::tempdir().unwrap();
    let short = PkiConfig { life_seconds: Some(life), ..config() };
    let first = Pki::open(dir.path(), &short, t0()).unwrap();
    let t = |part: i64| at(t0().as_second() + life * part / 100);
    assert!(!first.is_due(t0()) && !first.is_due(t(65)) && first.is_due(t(76)), "{}", first.due());
    assert_eq!(first.serving.ends(), t(100).as_second());
    let later = first.renewed(t(76)).unwrap();
    assert!(!later.is_due(t(76)) && later.due() > t(100).as_second(), "the next life is as long");
    // What is signed for others lives no longer, whatever they ask for.
    let key = request::new_key().unwrap();
    let asked = request::make(&key, &Profile::kubelet_client("n2")).unwrap();
    for (seconds, lives) in [(None, life), (Some(life * 2), life), (Some(life / 2), life / 2)] {
        let cert_pem = first.client_ca.sign_request(&asked, &Profile::kubelet_client("n2"), seconds, t0()).unwrap();
        let pair = Pair { cert_pem, key_pem: key.clone() };
        assert_eq!(pair.ends(), t0().as_second() + lives);
        assert!(!pair.is_due(t0()));
    }
}

#[test_case(1000, 0 => Duration::from_secs(60); "never longer than asked")]
#[test_case(20, 0 => Duration::from_secs(21); "just after it is due")]
#[test_case(0, 500 => Duration::from_secs(1); "what is late is not asked for without a pause")]
#[test_case(i64::MAX, 0 => Duration::from_secs(60); "nothing is due ever")]
#[test_case(i64::MIN, 0 => Duration::from_secs(1); "damaged")]
fn looks_again_when_something_is_due(due: i64, now: i64) -> Duration {
    pause(due, at(now), Duration::from_secs(60))
}

#[test]
fn a_new_name_gets_a_new_certificate_under_the_same_ca() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), &config(), t0()).unwrap();
    let wider = PkiConfig { tls_sans: vec!["other.example.com".into()], ..config() };
    let second = Pki::open(dir.path(), &wider, t0()).unwrap();
    assert_ne!(first.serving.cert_pem, second.serving.cert_pem);
    assert_eq!(first.admin.cert_pem, second.admin.cert_pem);
    assert_eq!(first.server_ca.sha256(), second.server_ca.sha256());
}

#[test_case("client-admin.crt", ""; "empty certificate")]
#[test_case("client-admin.key", "-----BEGIN PRIVATE KEY-----\nMIGH"; "torn key")]
#[test_case("serving-kube-apiserver.crt", "\u{0}\u{0}"; "zeros")]
fn a_damaged_leaf_is_issued_again(file: &str, content: &str) {
    let dir = tempfile::tempdir().unwrap();
    Pki::open(dir.path(), &config(), t0()).unwrap();
    std::fs::write(dir.path().join(file), content).unwrap();
    let pki = Pki::open(dir.path(), &config(), t0()).unwrap();
    pki.admin.certified().unwrap();
    pki.serving_key().unwrap();
    assert_ne!(std::fs::read_to_string(dir.path().join(file)).unwrap(), content);
}

#[test_case("server-ca.crt"; "server ca")]
#[test_case("client-ca.key"; "client ca key")]
#[test_case("service.key"; "service account key")]
fn a_damaged_root_is_an_error_that_names_the_file(file: &str) {
    let dir = tempfile::tempdir().unwrap();
    Pki::open(dir.path(), &config(), t0()).unwrap();
    std::fs::write(dir.path().join(file), "half").unwrap();
    let error = Pki::open(dir.path(), &config(), t0()).unwrap_err().to_string();
    assert!(error.contains(file) && error.contains("damaged"), "{error}");
}

#[test]
fn a_ca_without_its_key_is_an_error_and_a_key_alone_is_a_start_cut_short() {
    let dir = tempfile::tempdir().unwrap();
    Pki::open(dir.path(), &config(), t0()).unwrap();
    std::fs::remove_file(dir.path().join("client-ca.crt")).unwrap();
    let pki = Pki::open(dir.path(), &config(), t0()).unwrap();
    let verifier = tls::ClientVerifier::new(&pki.client_ca.cert).unwrap();
    assert!(verifier.accepts(&pki.admin.chain().unwrap(), t0()));
    std::fs::remove_file(dir.path().join("client-ca.key")).unwrap();
    let error = Pki::open(dir.path(), &config(), t0()).unwrap_err().to_string();
    assert!(error.contains("client-ca.key"), "{error}");
}

#[test]
fn a_clock_at_1970_makes_a_ca_that_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let then = Pki::open(dir.path(), &config(), at(120)).unwrap();
    let now = Pki::open(dir.path(), &config(), t0()).unwrap();
    assert_eq!(then.server_ca.sha256(), now.server_ca.sha256());
    let verifier = tls::ClientVerifier::new(&now.client_ca.cert).unwrap();
    assert!(verifier.accepts(&now.admin.chain().unwrap(), t0()));
    let later = now.renewed(after(270)).unwrap();
    assert!(verifier.accepts(&later.admin.chain().unwrap(), after(270)));
}

#[test]
fn only_the_right_ca_and_the_right_use_is_accepted() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (Pki::open(a.path(), &config(), t0()).unwrap(), Pki::open(b.path(), &config(), t0()).unwrap());
    let verifier = tls::ClientVerifier::new(&a.client_ca.cert).unwrap();
    let accepts = |pair: &Pair, now| verifier.accepts(&pair.chain().unwrap(), now);
    assert!(accepts(&a.admin, t0()));
    assert!(!accepts(&b.admin, t0()), "another cluster's");
    assert!(!accepts(&a.auth_proxy, t0()), "the front proxy's CA vouches for no users");
    assert!(!accepts(&a.admin, after(366)), "expired");
    assert!(!accepts(&a.admin, after(-2)), "not yet valid");
    let server = a.client_ca.issue(&Profile::server("x", vec!["x".into()]), t0()).unwrap();
    assert!(!accepts(&server, t0()), "a serving certificate is no client's");
    assert!(!verifier.accepts(&[], t0()));
}

#[test]
fn a_request_gets_what_the_profile_says_and_not_what_it_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &config(), t0()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut asked = rcgen::CertificateParams::new(vec!["evil.example.com".into()]).unwrap();
    asked.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let request = asked.serialize_request(&key).unwrap().pem().unwrap();
    let pem = pki.client_ca.sign_request(&request, &Profile::kubelet_client("n2"), None, t0()).unwrap();
    let pair = Pair { cert_pem: pem, key_pem: key.serialize_pem() };
    let chain = pair.chain().unwrap();
    let (_, cert) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(profile::subject(&cert), ("system:node:n2".into(), vec!["system:nodes".into()]));
    assert!(profile::sans(&cert).is_empty());
    assert!(tls::ClientVerifier::new(&pki.client_ca.cert).unwrap().accepts(&chain, t0()));
    pki.client_ca.sign_request("junk", &Profile::kubelet_client("n2"), None, t0()).unwrap_err();
}

#[test]
fn a_key_is_for_what_the_profile_says() {
    let ca = Ca::new("ca", rcgen::KeyPair::generate().unwrap(), t0()).unwrap();
    for (signing, enciphering) in [(true, true), (true, false), (false, false)] {
        let key_use = KeyUse { signing, enciphering };
        let pair = ca.issue(&Profile { key_use, ..Profile::client("jane", &[]) }, t0()).unwrap();
        let chain = pair.chain().unwrap();
        let (_, cert) = X509Certificate::from_der(&chain[0]).unwrap();
        let usage = cert.key_usage().unwrap().map(|u| (u.value.digital_signature(), u.value.key_encipherment()));
        assert_eq!(usage.unwrap_or_default(), (signing, enciphering));
        assert!(tls::ClientVerifier::new(&ca.cert).unwrap().accepts(&chain, t0()), "whatever for, it is a client's");
        assert_eq!(profile::end(pair.cert_pem.as_bytes()), Some(pair.ends()));
    }
}

#[test]
fn a_bad_san_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let bad = PkiConfig { tls_sans: vec!["not a name".into()], ..config() };
    let error = Pki::open(dir.path(), &bad, t0()).unwrap_err().to_string();
    assert!(error.contains("not a name") && error.contains("--tls-san"), "{error}");
}

/// A handshake over memory: what the client's side says in the end.
fn handshake(client: Arc<rustls::ClientConfig>, server: Arc<rustls::ServerConfig>) -> Result<usize, rustls::Error> {
    let mut client = rustls::ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap();
    let mut server = rustls::ServerConnection::new(server).unwrap();
    for _ in 0..8 {
        let mut buffer = Vec::new();
        client.write_tls(&mut buffer).unwrap();
        server.read_tls(&mut buffer.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut buffer = Vec::new();
        server.write_tls(&mut buffer).unwrap();
        client.read_tls(&mut buffer.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
    Ok(server.peer_certificates().map_or(0, <[_]>::len))
}

#[test]
fn the_handshake_takes_our_clients_none_and_no_strangers() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let now = Timestamp::now();
    let (a, b) = (Pki::open(a.path(), &config(), now).unwrap(), Pki::open(b.path(), &config(), now).unwrap());
    let cert = tls::SwappableCert::new(a.serving_key().unwrap());
    let server = tls::server_config(cert.clone(), &[&a.client_ca.cert, &a.request_header_ca.cert]).unwrap();
    let client = |identity| tls::client_config(&a.server_ca.cert, identity).unwrap();
    assert_eq!(handshake(client(Some(&a.admin)), server.clone()).unwrap(), 1);
    assert_eq!(handshake(client(None), server.clone()).unwrap(), 0);
    handshake(client(Some(&b.admin)), server.clone()).unwrap_err();
    cert.swap(b.serving_key().unwrap());
    handshake(client(None), server).unwrap_err();
}

mod join_token {
    use super::super::token::*;
    use super::mode;
    use test_case::test_case;

    const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn is_what_it_was_after_a_round_trip_and_hides_its_secret() {
        let token = generate(HASH, "server");
        assert_eq!(parse(&format!("{token}\n")).unwrap(), token);
        assert!(!format!("{token:?}").contains(&token.secret));
        assert_ne!(generate(HASH, "server").secret, token.secret);
    }

    #[test_case(""; "empty")]
    #[test_case("secret"; "only a secret")]
    #[test_case("K10abc::server:x"; "short hash")]
    #[test_case("K1000112233445566778899aabbccddeeff00112233445566778899aabbccddeeff:server:x"; "one colon")]
    #[test_case("K1000112233445566778899aabbccddeeff00112233445566778899aabbccddeeff::server"; "no secret")]
    #[test_case("K1000112233445566778899aabbccddeeff00112233445566778899aabbccddeeff::server:a:b"; "a colon too many")]
    fn malformed_ones_are_refused(text: &str) {
        assert_eq!(parse(text), Err(TokenError::Malformed));
    }

    #[test]
    fn hashes_are_salted_and_verify_only_their_secret() {
        let stored = hash("s3cret");
        assert!(verify("s3cret", &stored));
        assert!(!verify("s3creT", &stored) && !verify("", &stored) && !verify("s3cret", "s3cret"));
        assert!(!verify("s3cret", &stored.replace("sha256", "plain")));
        assert_ne!(hash("s3cret"), stored);
        assert!(!stored.contains("s3cret"));
    }

    #[test]
    fn the_file_is_kept_is_secret_and_belongs_to_its_ca() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let first = open(&path, HASH, None).unwrap();
        assert_eq!(open(&path, HASH, None).unwrap(), first);
        assert_eq!(mode(&path), 0o600);
        assert_eq!(open(&path, HASH, Some("chosen")).unwrap().secret, "chosen");
        assert_eq!(open(&path, HASH, None).unwrap().secret, "chosen");
        let other = HASH.replace('0', "f");
        assert!(open(&path, &other, None).unwrap_err().to_string().contains(&other));
        std::fs::write(&path, "torn").unwrap();
        assert!(open(&path, HASH, None).unwrap_err().to_string().contains("token is damaged"));
    }
}

#[test]
fn kubeconfigs_are_written_whole_once_and_with_their_mode() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(&dir.path().join("tls"), &config(), t0()).unwrap();
    let text = kubeconfig::render("https://127.0.0.1:6443", &pki.server_ca.cert_pem, &pki.admin);
    let path = dir.path().join("etc/orch.yaml");
    assert!(kubeconfig::write_if_changed(&path, &text, None).unwrap());
    assert_eq!(mode(&path), 0o600);
    assert!(!kubeconfig::write_if_changed(&path, &text, None).unwrap());
    assert!(kubeconfig::write_if_changed(&path, &text, Some(0o644)).unwrap());
    assert_eq!(mode(&path), 0o644);
    let config = kube::config::Kubeconfig::read_from(&path).unwrap();
    assert_eq!(config.current_context.as_deref(), Some("default"));
    assert_eq!(config.clusters[0].cluster.as_ref().unwrap().server.as_deref(), Some("https://127.0.0.1:6443"));
}

/// CAs that stand there before the first start are used, and what they signed is kept.
#[test_case(&rcgen::PKCS_RSA_SHA256; "RSA")]
#[test_case(&rcgen::PKCS_ECDSA_P384_SHA384; "P-384")]
#[test_case(&rcgen::PKCS_ED25519; "Ed25519")]
fn a_ca_of_the_user_signs(kind: &'static rcgen::SignatureAlgorithm) {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate_for(kind).unwrap();
    let curve = "-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n";
    for name in ["server-ca", "client-ca"] {
        std::fs::write(dir.path().join(format!("{name}.key")), curve.to_owned() + &key.serialize_pem()).unwrap();
        let key = rcgen::KeyPair::from_pem(&key.serialize_pem()).unwrap();
        std::fs::write(dir.path().join(format!("{name}.crt")), Ca::new("theirs", key, t0()).unwrap().cert_pem).unwrap();
    }
    let first = Pki::open(dir.path(), &config(), t0()).unwrap();
    let again = Pki::open(dir.path(), &config(), after(1)).unwrap();
    assert_eq!(first.serving.cert_pem, again.serving.cert_pem, "it is issued once");
    let client = first.admin.chain().unwrap();
    assert!(tls::ClientVerifier::new(&first.client_ca.cert).unwrap().accepts(&client, after(1)));
}

#[test_case("", "no private key in it"; "nothing")]
#[test_case("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "neither RSA nor ECDSA"; "garbage")]
fn token_keys_that_cannot_be_used_are_told(pem: &str, want: &str) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("service.key"), pem).unwrap();
    let error = Pki::open(dir.path(), &config(), t0()).unwrap_err().to_string();
    assert!(error.contains("service.key is damaged") && error.contains(want), "{error}");
}

#[test]
fn ed25519_signs_no_tokens() {
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    assert!(keys::parse(&pem).unwrap_err().contains("neither RSA nor ECDSA"));
}

/// A first start without a battery: the clock stands at 1970 and is set a minute later.
#[test]
fn certificates_of_a_clock_that_was_behind_hold_until_they_are_issued_again() {
    let dir = tempfile::tempdir().unwrap();
    let behind = Pki::open(dir.path(), &config(), at(0)).unwrap();
    let now = at(ca::CLOCK_FLOOR_SECONDS + 100 * DAY);
    assert!(!behind.is_due(at(60)) && !behind.is_due(now), "it holds whatever the clock is set to");
    let verifier = tls::ClientVerifier::new(&behind.client_ca.cert).unwrap();
    assert!(verifier.accepts(&behind.admin.chain().unwrap(), now));
    let late = at(ca::CLOCK_FLOOR_SECONDS + 300 * DAY);
    assert!(behind.is_due(late));
    assert!(!behind.renewed(late).unwrap().is_due(late));
    assert!(behind.renewed(late).unwrap().is_due(at(0)), "a clock that is put back as well");
}

#[test]
fn a_node_that_moved_answers_at_its_new_address() {
    let dir = tempfile::tempdir().unwrap();
    let mut pki = Pki::open(dir.path(), &config(), t0()).unwrap();
    assert!(!pki.answer_at(config().node_ips), "the same address is no news");
    assert!(pki.answer_at(vec!["198.51.100.7".parse().unwrap()]));
    let moved = pki.renewed(t0()).unwrap();
    let chain = moved.serving.chain().unwrap();
    let (_, cert) = X509Certificate::from_der(&chain[0]).unwrap();
    let sans = profile::sans(&cert);
    assert!(sans.contains(&"198.51.100.7".to_owned()) && !sans.contains(&"192.0.2.7".to_owned()), "{sans:?}");
    assert_eq!(pki.admin.cert_pem, moved.admin.cert_pem);
}
