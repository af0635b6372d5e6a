//! Certificates that are trusted by their public key: from a PEM file to the pins that Chromium takes.
//!
//! It exists because Chromium pins keys, not certificates. It must not know who shows the certificate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use x509_parser::pem::Pem;

use super::Mistake;

const REMEDY: &str = "give the path of a PEM file with -----BEGIN CERTIFICATE----- in it";

/// The pin of every certificate in the PEM file: base64 of the SHA-256 of its SubjectPublicKeyInfo.
pub(super) fn pins(path: &str) -> Result<Vec<String>, Mistake> {
    let pem = std::fs::read(path)
        .map_err(|error| Mistake::new(format!("names `{path}`, which cannot be read: {error}"), REMEDY))?;
    pins_of(&pem).map_err(|why| Mistake::new(format!("names `{path}`, {why}"), REMEDY))
}

/// The pins of a PEM file's content; an error goes on after "the file, …".
pub fn pins_of(pem: &[u8]) -> Result<Vec<String>, String> {
    let mut pins = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        let block = block.map_err(|error| format!("which is not a PEM file: {error}"))?;
        // A file with the private key beside the certificate is common and no mistake.
        if block.label != "CERTIFICATE" {
            continue;
        }
        let certificate =
            block.parse_x509().map_err(|error| format!("which holds a broken certificate: {error}"))?;
        pins.push(STANDARD.encode(Sha256::digest(certificate.public_key().raw)));
    }
    if pins.is_empty() { Err("which holds no certificate".into()) } else { Ok(pins) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_those_of_the_keys() {
        let mut pem = String::new();
        let mut expected = Vec::new();
        for name in ["a.test", "b.test"] {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            pem += &made.signing_key.serialize_pem();
            pem += &made.cert.pem();
            // Independent of the certificate: the key pair writes its own SubjectPublicKeyInfo.
            use rcgen::PublicKeyData;
            expected.push(STANDARD.encode(Sha256::digest(made.signing_key.subject_public_key_info())));
        }
        assert_eq!(pins_of(pem.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn a_file_without_certificates_is_a_mistake() {
        assert!(pins_of(b"hello").unwrap_err().contains("no certificate"));
        let broken = b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        assert!(pins_of(broken).unwrap_err().contains("broken"));
    }
}
