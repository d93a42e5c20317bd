//! Query strings: percent-decoding and typed parameters.

use coracle_shared::api::status::Status;

/// The parameters of a request, decoded, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

/// More parameters than any client sends; a bound on what a request can make us hold.
const MAX_PARAMETERS: usize = 1000;

impl Query {
    pub fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|p| !p.is_empty()).take(MAX_PARAMETERS);
        Query(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name, true), decode(value, true))
                })
                .collect(),
        )
    }

    /// The first value of a parameter; empty is as good as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A boolean as Go's `strconv` reads it.
    pub fn flag(&self, name: &str) -> Result<bool, Status> {
        match self.get(name) {
            None => Ok(false),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(Status::bad_request(format!("parameter {name}: {other:?} is not a boolean"))),
        }
    }

    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Status> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let wrong = || Status::bad_request(format!("parameter {name}: {text:?} is not a number in range"));
        text.parse().map(Some).map_err(|_| wrong())
    }
}

/// Decodes `%XX` and, in queries, `+`. What is not valid UTF-8 becomes U+FFFD: such names exist nowhere.
pub fn decode(text: &str, plus: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' if plus => out.push(b' '),
            b'%' => {
                let mut ahead = bytes.clone();
                let digit = |b: Option<u8>| b.and_then(|b| (b as char).to_digit(16));
                match (digit(ahead.next()), digit(ahead.next())) {
                    (Some(high), Some(low)) => {
                        out.push((high << 4 | low) as u8);
                        bytes = ahead;
                    }
                    _ => out.push(b'%'),
                }
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&command=sh&command=-c&watch=true&limit=&x=%zz");
        assert_eq!(query.get("labelSelector"), Some("a=b,c in (d)"));
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c"]);
        assert_eq!(query.flag("watch"), Ok(true));
        assert_eq!(query.flag("absent"), Ok(false));
        assert_eq!(query.number::<u64>("limit"), Ok(None));
        assert_eq!(query.get("x"), Some("%zz"));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let query = Query::parse("watch=maybe&limit=-3");
        assert_eq!(query.flag("watch").expect_err("no boolean").code, 400);
        assert!(query.number::<u64>("limit").expect_err("no number").message.contains("limit"));
    }
}
