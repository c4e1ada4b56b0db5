//! Connecting: all kinds of credentials, TLS, and the errors of failed connections.

use std::path::PathBuf;

use tidings::{
    Bus, NatsOptions,
    nats::{Auth, ConnectError, Tls},
};
use tidings_test_servers::NatsServer;

async fn server(config: &str) -> NatsServer {
    let options = NatsServer::options().config(config);
    options.start().await.expect("nats-server starts")
}

async fn connects(options: NatsOptions) -> bool {
    match Bus::connect(options).await {
        Ok(bus) => bus.is_connected(),
        Err(ConnectError::Unreachable { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

fn at(server: &NatsServer, auth: Auth) -> NatsOptions {
    NatsOptions::servers([server.url()]).auth(auth)
}

#[tokio::test]
async fn user_and_password_work_as_options_and_in_the_url() {
    let server = server("authorization { user: ada, password: s3cret }").await;
    let user = |password: &str| Auth::user("ada", password);
    assert!(connects(at(&server, user("s3cret"))).await);
    assert!(!connects(at(&server, user("wrong"))).await);
    assert!(!connects(at(&server, Auth::Anonymous)).await);
    let url = server.url().replace("nats://", "nats://ada:s3cret@");
    assert!(connects(url.as_str().into()).await);
    let wrong = server.url().replace("nats://", "nats://ada:s3cr3t@");
    let error = Bus::connect(wrong.as_str()).await.unwrap_err();
    assert!(!error.to_string().contains("s3cr3t"), "{error}");
}

#[tokio::test]
async fn a_token_connects() {
    let server = server("authorization { token: t0ken }").await;
    assert!(connects(at(&server, Auth::Token("t0ken".into()))).await);
    assert!(!connects(at(&server, Auth::Token("other".into()))).await);
}

#[tokio::test]
async fn an_nkey_connects() {
    let pair = nkeys::KeyPair::new_user();
    let nkey = pair.public_key();
    let server = server(&format!(
        "authorization {{ users: [ {{ nkey: {nkey} }} ] }}"
    ))
    .await;
    assert!(connects(at(&server, Auth::NkeySeed(pair.seed().unwrap()))).await);
    let stranger = nkeys::KeyPair::new_user().seed().unwrap();
    assert!(!connects(at(&server, Auth::NkeySeed(stranger))).await);
}

#[tokio::test]
async fn an_invalid_credentials_file_is_named() {
    let server = server("").await;
    let missing = Auth::CredentialsFile(PathBuf::from("/nowhere/user.creds"));
    let error = Bus::connect(at(&server, missing)).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/user.creds"), "{error}");
}

/// A certificate authority of the test, in a folder of its own.
struct Authority {
    folder: PathBuf,
    params: rcgen::CertificateParams,
    key: rcgen::KeyPair,
    roots: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("tidings-tls-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let roots = folder.join("root.pem");
        std::fs::write(&roots, root.pem()).unwrap();
        Self {
            folder,
            params,
            key,
            roots,
        }
    }

    /// A certificate for this machine, and its key.
    fn signed(&self, name: &str) -> (PathBuf, PathBuf) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
        let certificate = rcgen::CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &issuer);
        let paths = ["pem", "key"].map(|kind| self.folder.join(format!("{name}.{kind}")));
        std::fs::write(&paths[0], certificate.unwrap().pem()).unwrap();
        std::fs::write(&paths[1], key.serialize_pem()).unwrap();
        paths.into()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn tls_works_with_a_root_and_a_client_certificate() {
    let authority = Authority::new();
    let roots = &authority.roots;
    let (certificate, key) = authority.signed("server");
    // With `auto`, a client that waits for the INFO of the server receives it.
    for (first, offered) in [(false, "false"), (true, "auto")] {
        let config = format!(
            "tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {roots:?}, verify: true, \
             handshake_first: {offered} }}"
        );
        let server = NatsServer::options().config(config).start().await.unwrap();
        let url = server.url().replace("nats://", "tls://");
        let with = |client| {
            let mut tls = Tls::default().required().roots(roots);
            tls.first = first;
            tls.client = client;
            NatsOptions::servers([url.clone()]).tls(tls)
        };
        assert!(connects(with(Some(authority.signed("client")))).await);
        assert!(!connects(with(None)).await);
        let unknown_root = NatsOptions::servers([url.clone()]);
        assert!(!connects(unknown_root).await);
    }
}

/// No secret is disclosed: a client with TLS in one of its addresses sends nothing to another server of the list that
/// has no TLS.
#[tokio::test(flavor = "multi_thread")]
async fn one_server_with_tls_keeps_credentials_from_those_without() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let authority = Authority::new();
    let (certificate, key) = authority.signed("server");
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stranger = plain.local_addr().unwrap();
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = plain.accept().await {
            let info = "INFO {\"server_id\":\"x\",\"version\":\"2.15.1\",\"proto\":1,\"headers\":true,\
                        \"max_payload\":1048576}\r\n";
            let _ = client.write_all(info.as_bytes()).await;
            let mut said = vec![0; 4096];
            let read = client.read(&mut said).await.unwrap_or(0);
            said.truncate(read);
            let _ = heard.send(String::from_utf8_lossy(&said).into_owned());
        }
    });
    let config = format!(
        "authorization {{ user: ada, password: s3cret }}\ntls {{ cert_file: {certificate:?}, key_file: {key:?} }}"
    );
    let server = NatsServer::options().config(config).start().await.unwrap();
    let tls = Tls::default().roots(&authority.roots);
    let url = server.url().replace("nats://", "tls://");
    let options = NatsOptions::servers([url, stranger.to_string()])
        .tls(tls)
        .auth(Auth::user("ada", "s3cret"));
    let bus = Bus::connect(options).await.unwrap();
    assert!(bus.is_connected());
    server.stop().await.unwrap();
    for _ in 0..3 {
        let said = tokio::time::timeout(std::time::Duration::from_secs(30), hears.recv());
        let said = said.await.unwrap().unwrap();
        assert!(
            !said.contains("CONNECT") && !said.contains("s3cret"),
            "{said:?}"
        );
    }
    assert!(!bus.is_connected());
}

#[tokio::test]
async fn an_unreachable_server_or_unreadable_file_is_named() {
    let nobody = NatsOptions::servers(["nats://127.0.0.1:1"]);
    let error = Bus::connect(nobody).await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert!(matches!(
        Bus::connect(NatsOptions::servers([""; 0])).await,
        Err(ConnectError::NoServer)
    ));
    let error = Bus::connect("nats://bad host:x").await.unwrap_err();
    assert!(matches!(error, ConnectError::Address { .. }), "{error}");
}
