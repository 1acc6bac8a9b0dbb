//! Answers in the form of a query. RFC 6749 section 5.1 wants JSON and the vault
//! asks for it; a server that answers otherwise has used the old refresh token
//! up all the same, and the new one is in what it sends.

use url::form_urlencoded;
use zeroize::Zeroizing;

use super::body::{Arrived, TOO_LONG, append};

/// The fields of which one must be there: no page or message has it by chance.
const TOKENS: [&str; 2] = ["refresh_token", "access_token"];

/// A success as a JSON object of its fields, where it is a form with a token in
/// it; anything else as it is. Of one that broke off the last field is left out,
/// since it may not be whole.
pub(super) fn as_object(body: Arrived) -> Arrived {
    let Some(fields) = fields(&body) else { return body };
    let mut bytes = Zeroizing::new(Vec::new());
    let mut whole = append(&mut bytes, b"{");
    for (number, (name, value)) in fields.iter().enumerate() {
        let [name, value] = [name, value].map(json_text);
        for part in [if number == 0 { "" } else { "," }, &name, ":", &value] {
            whole = whole && append(&mut bytes, part.as_bytes());
        }
    }
    whole = whole && append(&mut bytes, b"}");
    let fault = body.fault.or_else(|| (!whole).then(|| TOO_LONG.to_owned()));
    Arrived { bytes, fault }
}

type Field = (Zeroizing<String>, Zeroizing<String>);

/// The fields of a form with a token in it.
fn fields(body: &Arrived) -> Option<Vec<Field>> {
    let text = std::str::from_utf8(&body.bytes).ok()?.trim();
    let text = match &body.fault {
        None => text,
        Some(_) => text.rsplit_once('&')?.0,
    };
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !text.split('&').all(|field| field.split_once('=').is_some_and(|(name, _)| is_name(name))) {
        return None;
    }
    let fields: Vec<Field> = form_urlencoded::parse(text.as_bytes())
        .map(|(name, value)| (Zeroizing::new(name.into_owned()), Zeroizing::new(value.into_owned())))
        .collect();
    let is_token = |(name, value): &Field| TOKENS.contains(&name.as_str()) && !value.is_empty();
    fields.iter().any(is_token).then_some(fields)
}

fn json_text(text: &Zeroizing<String>) -> Zeroizing<String> {
    // A string cannot fail to be written.
    Zeroizing::new(serde_json::to_string(text.as_str()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn arrived(text: &str, fault: Option<&str>) -> Arrived {
        Arrived { bytes: Zeroizing::new(text.as_bytes().to_vec()), fault: fault.map(str::to_owned) }
    }

    fn object(text: &str, fault: Option<&str>) -> Option<Value> {
        serde_json::from_slice(&as_object(arrived(text, fault)).bytes).ok()
    }

    #[test]
    fn a_form_with_a_token_becomes_an_object() {
        let whole = "access_token=a%2Bb&expires_in=60&refresh_token=r%22%5C&scope=x+y\r\n";
        let expected =
            json!({"access_token": "a+b", "expires_in": "60", "refresh_token": "r\"\\", "scope": "x y"});
        assert_eq!(object(whole, None), Some(expected));
        assert_eq!(object("refresh_token=", None), None);
    }

    #[test]
    fn of_a_form_that_broke_off_no_field_is_read_that_may_be_cut() {
        let torn = "token_type=bearer&refresh_token=r&access_token=a";
        assert_eq!(object(torn, Some("closed")), Some(json!({"token_type": "bearer", "refresh_token": "r"})));
        assert_eq!(object("token_type=bearer&refresh_token=r", Some("closed")), None);
        assert!(as_object(arrived(torn, Some("closed"))).fault.is_some(), "it stays known");
    }

    #[test]
    fn what_is_no_form_stays_as_it_is() {
        let others = [
            "",
            r#"{"refresh_token":"r","x":"a=b&refresh_token=c"}"#,
            "<a href=\"?x=1&refresh_token=r\">",
            "error=invalid_grant&error_description=refresh_token",
            "refresh_token",
        ];
        for text in others {
            assert_eq!(&as_object(arrived(text, None)).bytes[..], text.as_bytes(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_token_is_changed_on_the_way(token in "\\PC{1,60}", before in "[a-z]{1,5}") {
            let form: String = form_urlencoded::Serializer::new(String::new())
                .append_pair(&before, &token)
                .append_pair("refresh_token", &token)
                .finish();
            let object = object(&form, None).unwrap();
            prop_assert_eq!(object["refresh_token"].as_str(), Some(token.as_str()));
        }

        #[test]
        fn whatever_arrives_it_is_read_or_left(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let body = Arrived { bytes: Zeroizing::new(bytes.clone()), fault: None };
            let read = as_object(body);
            prop_assert!(read.bytes[..] == bytes[..] || serde_json::from_slice::<Value>(&read.bytes).is_ok());
        }
    }
}
