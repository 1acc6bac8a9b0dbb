//! What is wrong with a connection, told by the types of errors and never by
//! their texts, which are other libraries' and change.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError};

/// Why a connection could not be made, or ended before an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// No address is known for the host's name.
    UnknownHost(String),
    /// The machine is there and nothing listens at the port.
    Refused,
    /// The machine cannot be reached.
    Unreachable(String),
    /// Plain text was sent to a port that speaks TLS.
    SpeaksTls,
    /// TLS was offered to a port that does not speak it.
    SpeaksPlainText,
    /// The other end speaks something else than HTTP/2.
    SpeaksOther,
    /// None of the authorities trusted has issued the server's certificate.
    UnknownIssuer,
    /// The server's certificate is for other names.
    WrongName {
        /// The name it should be for.
        expected: String,
        /// The names it is for, where they are known.
        presented: Vec<String>,
    },
    /// The server's certificate has expired.
    ServerExpired,
    /// The server's certificate is not valid yet.
    ServerNotYetValid,
    /// The server's certificate cannot be used for another reason.
    ServerCertificate(String),
    /// The server refused the client's certificate, or missed one.
    ClientCertificate(Refusal),
    /// The two found no TLS version, cipher or the like in common, or one broke
    /// the protocol.
    Tls(String),
    /// It was closed or reset before an answer came.
    Ended,
}

/// Why a server refused a client's certificate, as far as its alert says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has expired, or is not valid yet.
    Expired,
    /// It was issued by an authority that the server does not trust for it.
    UnknownIssuer,
    /// It is for another use, not for clients.
    Purpose,
    /// It was revoked.
    Revoked,
    /// The server got none.
    Missing,
    /// The server does not say more.
    Other,
}

impl Trouble {
    /// What an error of reading or writing means. TLS errors travel inside of
    /// I/O errors.
    pub(super) fn of_io(error: &io::Error) -> Self {
        let inner = error.get_ref();
        if let Some(known) = inner.and_then(|inner| inner.downcast_ref::<Self>()) {
            return known.clone();
        }
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::of_tls(tls);
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
            | io::ErrorKind::UnexpectedEof => Self::Ended,
            _ => Self::Unreachable(error.to_string()),
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(error),
            rustls::Error::AlertReceived(alert) => Self::of_alert(*alert),
            // What came was no TLS record.
            rustls::Error::InvalidMessage(_) => Self::SpeaksPlainText,
            rustls::Error::NoApplicationProtocol => Self::SpeaksOther,
            other => Self::Tls(other.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            // The second is an authority of the same name with another key, as
            // one that was made again has.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::ServerExpired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::ServerNotYetValid
            }
            CertificateError::NotValidForName => {
                Self::WrongName { expected: String::new(), presented: Vec::new() }
            }
            CertificateError::NotValidForNameContext { expected, presented } => Self::WrongName {
                expected: expected.to_str().into_owned(),
                presented: presented.iter().map(|name| plain_name(name)).collect(),
            },
            other => Self::ServerCertificate(other.to_string()),
        }
    }

    /// A server that checked the handshake sends these about the client's
    /// certificate alone: that is all it has from the client by then.
    fn of_alert(alert: AlertDescription) -> Self {
        let refusal = match alert {
            AlertDescription::CertificateExpired => Refusal::Expired,
            // The second stands for a signature that the authority's key has not made.
            AlertDescription::UnknownCA | AlertDescription::DecryptError => Refusal::UnknownIssuer,
            AlertDescription::UnsupportedCertificate => Refusal::Purpose,
            AlertDescription::CertificateRevoked => Refusal::Revoked,
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => Refusal::Missing,
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => Refusal::Other,
            AlertDescription::NoApplicationProtocol => return Self::SpeaksOther,
            AlertDescription::CloseNotify => return Self::Ended,
            other => return Self::Tls(format!("the other end sent the alert {other:?}")),
        };
        Self::ClientCertificate(refusal)
    }
}

/// A name of a certificate without the type that rustls writes around it.
fn plain_name(name: &str) -> String {
    let quoted = name.split('"').nth(1);
    quoted.unwrap_or_else(|| name.trim_start_matches("IpAddress(").trim_end_matches(')')).to_owned()
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownHost(host) => write!(f, "the host {host} has no known address"),
            Self::Refused => f.write_str("nothing listens there: the connection was refused"),
            Self::Unreachable(why) => write!(f, "the host cannot be reached: {why}"),
            Self::SpeaksTls => f.write_str("the port speaks TLS, and http:// was asked for"),
            Self::SpeaksPlainText => f.write_str("the port does not speak TLS, and https:// was asked for"),
            Self::SpeaksOther => f.write_str("what listens there does not speak gRPC (HTTP/2)"),
            Self::UnknownIssuer => f.write_str("the vault's certificate was issued by an unknown authority"),
            Self::WrongName { expected, presented } => {
                f.write_str("the vault's certificate is for another name")?;
                if !presented.is_empty() {
                    write!(f, ": it is for {} and not for {expected}", presented.join(", "))?;
                }
                Ok(())
            }
            Self::ServerExpired => f.write_str("the vault's certificate has expired"),
            Self::ServerNotYetValid => f.write_str("the vault's certificate is not valid yet"),
            Self::ServerCertificate(why) => write!(f, "the vault's certificate cannot be used: {why}"),
            Self::ClientCertificate(refusal) => {
                write!(f, "the vault refused the client certificate: {refusal}")
            }
            Self::Tls(why) => write!(f, "no TLS connection could be agreed on: {why}"),
            Self::Ended => f.write_str("the connection ended before the vault's answer"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "it has expired or is not valid yet",
            Self::UnknownIssuer => "it was issued by an authority that the vault does not trust for it",
            Self::Purpose => "it is not for client use",
            Self::Revoked => "it was revoked",
            Self::Missing => "there was none",
            Self::Other => "it is not accepted",
        })
    }
}

impl std::error::Error for Trouble {}

#[cfg(test)]
mod tests {
    use rustls::InvalidMessage;

    use super::*;

    fn of(error: rustls::Error) -> Trouble {
        Trouble::of_io(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn the_type_of_an_error_decides_and_not_its_text() {
        use rustls::Error::{AlertReceived, InvalidCertificate};
        assert_eq!(of(InvalidCertificate(CertificateError::UnknownIssuer)), Trouble::UnknownIssuer);
        assert_eq!(of(InvalidCertificate(CertificateError::Expired)), Trouble::ServerExpired);
        assert_eq!(of(InvalidCertificate(CertificateError::NotValidYet)), Trouble::ServerNotYetValid);
        assert_eq!(of(InvalidCertificate(CertificateError::BadSignature)), Trouble::UnknownIssuer);
        let other = of(InvalidCertificate(CertificateError::InvalidPurpose));
        assert!(matches!(other, Trouble::ServerCertificate(_)), "{other:?}");
        assert_eq!(
            of(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)),
            Trouble::SpeaksPlainText
        );
        for (alert, refusal) in [
            (AlertDescription::CertificateExpired, Refusal::Expired),
            (AlertDescription::UnknownCA, Refusal::UnknownIssuer),
            (AlertDescription::DecryptError, Refusal::UnknownIssuer),
            (AlertDescription::UnsupportedCertificate, Refusal::Purpose),
            (AlertDescription::CertificateRevoked, Refusal::Revoked),
            (AlertDescription::CertificateRequired, Refusal::Missing),
            (AlertDescription::CertificateUnknown, Refusal::Other),
        ] {
            assert_eq!(of(AlertReceived(alert)), Trouble::ClientCertificate(refusal));
        }
        let misleading = io::Error::other("certificate expired");
        assert!(matches!(Trouble::of_io(&misleading), Trouble::Unreachable(_)));
    }

    #[test]
    fn an_end_is_no_matter_of_certificates() {
        for kind in [
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::ConnectionAborted,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::UnexpectedEof,
        ] {
            assert_eq!(Trouble::of_io(&kind.into()), Trouble::Ended);
        }
        assert_eq!(Trouble::of_io(&io::ErrorKind::ConnectionRefused.into()), Trouble::Refused);
    }

    #[test]
    fn names_are_shown_as_people_write_them() {
        assert_eq!(plain_name("DnsName(\"vault.example\")"), "vault.example");
        assert_eq!(plain_name("IpAddress(10.0.0.1)"), "10.0.0.1");
        assert_eq!(plain_name("vault.example"), "vault.example");
    }
}
