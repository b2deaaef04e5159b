use super::ServerError;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use std::io;

/// What certificate a server shows to clients that trust the CA of [`Redis::ca_pem`](super::Redis::ca_pem).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// One of that CA's, for `localhost` and `127.0.0.1`.
    Good,
    /// One of another CA.
    OtherCa,
    /// One for another host.
    OtherHost,
    /// One that was good in 2000.
    Expired,
}

/// PEM texts.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) ca: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Certificate {
    pub(super) fn issue(self) -> Result<Issued, ServerError> {
        self.issued().map_err(|error| ServerError::io("making a certificate")(io::Error::other(error)))
    }

    fn issued(self) -> Result<Issued, rcgen::Error> {
        let (ca, issuer) = authority()?;
        let (_, other) = authority()?;
        let hosts = match self {
            Self::OtherHost => vec!["elsewhere.test".to_owned()],
            _ => vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        };
        let mut params = CertificateParams::new(hosts)?;
        if self == Self::Expired {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2000, 12, 31);
        }
        let key = KeyPair::generate()?;
        let issuer = if self == Self::OtherCa { other } else { issuer };
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok(Issued { ca, certificate, key: key.serialize_pem() })
    }
}

fn authority() -> Result<(String, Issuer<'static, KeyPair>), rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "a CA of one test");
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), Issuer::new(params, key)))
}
