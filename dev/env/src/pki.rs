//! Certificates, keys and tokens of one instance. They live as long as its directory.

use std::{fmt::Write as _, fs::File, io::Read as _, path::Path};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

use crate::error::{Result, at};

/// So many bytes that nobody can guess, in hexadecimal: tokens, and names that nobody has taken before.
pub(crate) fn random_hex(bytes: usize) -> Result<String> {
    let source = Path::new("/dev/urandom");
    let mut random = vec![0; bytes];
    File::open(source).and_then(|mut file| file.read_exact(&mut random)).map_err(at(source))?;
    Ok(random.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // Writing to a string cannot fail.
        text
    }))
}

/// Writes `ca.crt`, `apiserver.crt`, `apiserver.key`, `sa.key`, `sa.pub` and `tokens.csv`, in which `admin_token` is the
/// administrator's (group `system:masters`). Gives the CA's certificate.
pub(crate) fn write(dir: &Path, admin_token: &str) -> Result<String> {
    let issuer = authority()?;
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
        ("tokens.csv", format!("{admin_token},admin,admin,system:masters\n")),
    ] {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(at(&path))?;
    }
    Ok(ca_pem)
}

/// Writes `<name>-ca.crt`, `<name>.crt` and `<name>.key`: a server on loopback, with a CA of its own.
pub(crate) fn write_server(dir: &Path, name: &str) -> Result<()> {
    let issuer = authority()?;
    let key = KeyPair::generate()?;
    let server = CertificateParams::new(["localhost", "127.0.0.1"].map(str::to_owned))?.signed_by(&key, &issuer)?;
    for (suffix, text) in [("-ca.crt", issuer.pem()), (".crt", server.pem()), (".key", key.serialize_pem())] {
        let path = dir.join(format!("{name}{suffix}"));
        std::fs::write(&path, text).map_err(at(&path))?;
    }
    Ok(())
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut ca = CertificateParams::new(Vec::<String>::new())?;
    ca.distinguished_name.push(DnType::CommonName, "eventpulse-env");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?)
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
