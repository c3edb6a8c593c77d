//! Certificates, keys and tokens of one instance. They live as long as its directory.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

use crate::error::{Result, at};

/// The token of the administrator (group `system:masters`).
pub(crate) const ADMIN_TOKEN: &str = "eventpulse-env-admin";

/// Writes `ca.crt`, `apiserver.crt`, `apiserver.key`, `sa.key`, `sa.pub` and `tokens.csv`. Gives the CA's certificate.
pub(crate) fn write(dir: &Path) -> Result<String> {
    let mut ca = CertificateParams::new(Vec::<String>::new())?;
    ca.distinguished_name.push(DnType::CommonName, "eventpulse-env");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let names = ["localhost", "127.0.0.1", "10.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let key = KeyPair::generate()?;
    let server = CertificateParams::new(names.map(str::to_owned))?.signed_by(&key, &issuer)?;
    let accounts = KeyPair::generate()?;
    let ca_pem = issuer.pem();
    for (name, text) in [
        ("ca.crt", ca_pem.clone()),
        ("apiserver.crt", server.pem()),
        ("apiserver.key", key.serialize_pem()),
        ("sa.key", accounts.serialize_pem()),
        ("sa.pub", accounts.public_key_pem()),
        ("tokens.csv", format!("{ADMIN_TOKEN},admin,admin,system:masters\n")),
    ] {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(at(&path))?;
    }
    Ok(ca_pem)
}

/// A kubeconfig that knows this one server and nothing else.
pub(crate) fn kubeconfig(server: &str, ca_file: &Path, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: env\nclusters:\n- name: env\n  cluster:\n    server: {server}\n    \
         certificate-authority: {}\nusers:\n- name: admin\n  user:\n    token: {token}\ncontexts:\n- name: env\n  context:\n    \
         cluster: env\n    user: admin\n    namespace: default\n",
        ca_file.display()
    )
}
