//! Connecting: credentials of every kind, TLS, and what is said when it does not work.

use std::path::PathBuf;

use tidings::{Auth, Bus, ConnectError, NatsOptions, Tls, testing::NatsServer};

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
async fn user_and_password_open_the_door_as_options_and_in_the_url() {
    let server = server("authorization { user: ada, password: s3cret }").await;
    let user = |password: &str| Auth::User {
        user: "ada".into(),
        password: password.into(),
    };
    assert!(connects(at(&server, user("s3cret"))).await);
    assert!(!connects(at(&server, user("wrong"))).await);
    assert!(!connects(at(&server, Auth::Anonymous)).await);
    let url = server.url().replace("nats://", "nats://ada:s3cret@");
    assert!(connects(url.as_str().into()).await);
    let wrong = server.url().replace("nats://", "nats://ada:s3cr3t@");
    let error = Bus::connect(wrong.as_str().into()).await.unwrap_err();
    assert!(!error.to_string().contains("s3cr3t"), "{error}");
}

#[tokio::test]
async fn a_token_opens_the_door() {
    let server = server("authorization { token: t0ken }").await;
    assert!(connects(at(&server, Auth::Token("t0ken".into()))).await);
    assert!(!connects(at(&server, Auth::Token("other".into()))).await);
}

#[tokio::test]
async fn an_nkey_opens_the_door() {
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
async fn a_credentials_file_that_is_none_is_an_error_that_names_it() {
    let server = server("").await;
    let missing = Auth::CredentialsFile(PathBuf::from("/nowhere/user.creds"));
    let error = Bus::connect(at(&server, missing)).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/user.creds"), "{error}");
}

#[tokio::test]
async fn tls_with_a_root_and_a_client_certificate() {
    let folder = std::env::temp_dir().join(format!("tidings-tls-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder).unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let signed = |name: &str| {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &issuer);
        let certificate = write(&format!("{name}.pem"), certificate.unwrap().pem());
        (
            certificate,
            write(&format!("{name}.key"), key.serialize_pem()),
        )
    };
    let roots = write("root.pem", root.pem());
    let (certificate, key) = signed("server");
    let config = format!(
        "tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {roots:?}, verify: true }}"
    );
    let server = NatsServer::options().config(config).start().await.unwrap();
    let url = server.url().replace("nats://", "tls://");
    let with = |client| {
        let tls = Tls {
            required: true,
            roots: Some(roots.clone()),
            client,
        };
        NatsOptions::servers([url.clone()]).tls(tls)
    };
    assert!(connects(with(Some(signed("client")))).await);
    assert!(!connects(with(None)).await);
    let unknown_root = NatsOptions::servers([url.clone()]);
    assert!(!connects(unknown_root).await);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn what_cannot_be_reached_or_read_is_named() {
    let nobody = NatsOptions::servers(["nats://127.0.0.1:1"]);
    let error = Bus::connect(nobody).await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert!(matches!(
        Bus::connect(NatsOptions::servers([""; 0])).await,
        Err(ConnectError::NoServer)
    ));
    let error = Bus::connect("nats://bad host:x".into()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Address { .. }), "{error}");
}
