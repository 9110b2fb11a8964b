//! TLS on both addresses, and certificates that change while they serve.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::server::{Server, command};

/// Writes a certificate for `localhost` and its key, and returns the certificate.
fn certify(folder: &Path) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let cert = params.self_signed(&key).unwrap();
    for (name, text) in [("key.pem", key.serialize_pem()), ("cert.pem", cert.pem())] {
        let half = folder.join("half");
        std::fs::write(&half, text).unwrap();
        std::fs::rename(half, folder.join(name)).unwrap();
    }
    cert.der().clone()
}

/// Asks for the health over TLS, trusting this certificate alone.
async fn health(
    server: &Server,
    trusted: &CertificateDer<'static>,
) -> Result<String, std::io::Error> {
    get(&server.base, "/health", trusted).await
}

async fn get(
    base: &str,
    path: &str,
    trusted: &CertificateDer<'static>,
) -> Result<String, std::io::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let address = base.trim_start_matches("http://");
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let first = certify(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let sets = [
        "engine.kind=scripted".to_owned(),
        format!("server.tls_cert={cert}"),
        format!("server.tls_key={key}"),
    ];
    let sets: Vec<_> = sets.iter().map(String::as_str).collect();
    let server = Server::launch(&sets, |_| {});
    server
        .until("it speaks TLS", async |s| {
            health(s, &first)
                .await
                .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        })
        .await;
    let plain = server
        .client
        .get(format!("{}/health", server.base))
        .send()
        .await;
    assert!(plain.is_err(), "nobody is answered without TLS");
    // A damaged file changes nothing, and is told.
    std::fs::write(
        folder.path().join("cert.pem"),
        "-----BEGIN CERTIFICATE-----\nx",
    )
    .unwrap();
    server
        .until("the damage is told", async |s| {
            s.log().contains("the certificate stays as it is")
                && s.log().contains("server.tls_cert")
        })
        .await;
    assert!(health(&server, &first).await.is_ok());
    let second = certify(folder.path());
    server
        .until("the new certificate serves", async |s| {
            health(s, &second).await.is_ok()
        })
        .await;
    assert!(
        health(&server, &first).await.is_err(),
        "the old one is gone"
    );
}

/// The admin address has a pair of its own, and what is wrong with one changes nothing of the other.
#[tokio::test]
async fn the_admin_address_has_a_certificate_of_its_own() {
    let (public, admin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (trusts_public, first) = (certify(public.path()), certify(admin.path()));
    let set = |key: &str, folder: &tempfile::TempDir, name: &str| {
        format!("server.{key}={}", folder.path().join(name).display())
    };
    let sets = [
        "engine.kind=scripted".to_owned(),
        set("tls_cert", &public, "cert.pem"),
        set("tls_key", &public, "key.pem"),
        set("admin_tls_cert", &admin, "cert.pem"),
        set("admin_tls_key", &admin, "key.pem"),
    ];
    let sets: Vec<_> = sets.iter().map(String::as_str).collect();
    let server = Server::launch(&sets, |_| {});
    let serves = async |s: &Server, trusted| {
        let answer = get(&s.admin, "/admin/slots", trusted).await;
        answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    };
    server
        .until("the admin address speaks TLS", async |s| {
            serves(s, &first).await
        })
        .await;
    assert!(health(&server, &trusts_public).await.is_ok());
    assert!(health(&server, &first).await.is_err(), "each has its own");
    let plain = server.client.get(format!("{}/metrics", server.admin));
    assert!(
        plain.send().await.is_err(),
        "nobody is answered without TLS"
    );
    let second = certify(admin.path());
    server
        .until("the new certificate serves", async |s| {
            serves(s, &second).await
        })
        .await;
    assert!(!serves(&server, &first).await, "the old one is gone");
    assert!(
        health(&server, &trusts_public).await.is_ok(),
        "the other address has its old one"
    );
    // The program's own commands get there too, where they are told whom to trust.
    let status = command()
        .args(["status", "--admin"])
        .arg(
            server
                .admin
                .replace("http://127.0.0.1", "https://localhost"),
        )
        .env("SSL_CERT_FILE", admin.path().join("cert.pem"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.status.success(), "{said} {status:?}");
}

#[test]
fn files_that_cannot_serve_are_named_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let other = tempfile::tempdir().unwrap();
    certify(other.path());
    let path =
        |folder: &tempfile::TempDir, name: &str| folder.path().join(name).display().to_string();
    let said = |cert: &str, key: &str| {
        let output = command()
            .args(["serve", "--check-config", "--set", "engine.kind=scripted"])
            .args(["--set", &format!("server.tls_cert={cert}")])
            .args(["--set", &format!("server.tls_key={key}")])
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let (cert, key) = (path(&folder, "cert.pem"), path(&folder, "key.pem"));
    let admin = command()
        .args(["serve", "--check-config", "--set", "engine.kind=scripted"])
        .args(["--set", &format!("server.admin_tls_cert={cert}")])
        .args([
            "--set",
            &format!("server.admin_tls_key={}", path(&other, "key.pem")),
        ])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&admin.stderr).into_owned();
    let words = "server.admin_tls_cert and server.admin_tls_key do not belong together";
    assert!(!admin.status.success() && told.contains(words), "{told}");
    for (cert, key, expected) in [
        (cert.as_str(), "", "server.tls_key: not set"),
        ("", key.as_str(), "server.tls_cert: not set"),
        (
            "/nowhere.pem",
            &key,
            "server.tls_cert: /nowhere.pem: cannot be read",
        ),
        (&key, &key, "found none, expected certificates in PEM form"),
        (
            &cert,
            &cert,
            "found none, expected a private key in PEM form",
        ),
        (&cert, &path(&other, "key.pem"), "do not belong together"),
    ] {
        let said = said(cert, key);
        assert!(said.contains(expected), "{expected}: {said}");
    }
}
