//! `OUTBOX_PLACEMENT`: extra columns into headers, in Debezium's syntax.

/// One entry of `OUTBOX_PLACEMENT`: a column that becomes a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Column name.
    pub column: String,
    /// Header name.
    pub header: String,
}

/// A placement that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// The entry is not `column:header[:name]`.
    #[error("{0:?} is not a placement; write column:header or column:header:name")]
    Syntax(String),
    /// A place that Debezium has and txstream has not.
    #[error(
        "{entry:?} places a column into the {place}, which is not supported; write column:header or column:header:name"
    )]
    Unsupported {
        /// The entry.
        entry: String,
        /// `envelope` or `partition`.
        place: &'static str,
    },
    /// Two entries write one header.
    #[error("header {0:?} is placed twice; give one of them another name: column:header:name")]
    Duplicate(String),
    /// The header `id` is the row's id.
    #[error("{0:?} writes the header id, which is the row's own; give it another name: column:header:name")]
    Id(String),
}

impl Placement {
    /// Reads comma-separated entries `column:header[:name]`; without a name the header is called as
    /// the column. Column names are taken as they are, blanks around a part do not count. Nothing is
    /// an empty list.
    ///
    /// # Errors
    /// A [`PlacementError`] for each entry that cannot be followed.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Vec<PlacementError>> {
        let (mut list, mut errors) = (Vec::<Self>::new(), Vec::new());
        for entry in text.split(',').filter(|_| !text.trim().is_empty()) {
            match Self::parse(entry.trim()) {
                Ok(placement) if list.iter().any(|known| known.header == placement.header) => {
                    errors.push(PlacementError::Duplicate(placement.header));
                }
                Ok(placement) => list.push(placement),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(list) } else { Err(errors) }
    }

    fn parse(entry: &str) -> Result<Self, PlacementError> {
        let syntax = || PlacementError::Syntax(entry.to_owned());
        let mut parts = entry.split(':').map(str::trim);
        let column = parts.next().filter(|part| !part.is_empty()).ok_or_else(syntax)?;
        let place = parts.next().ok_or_else(syntax)?;
        let header = parts.next().unwrap_or(column);
        let unsupported = |place| Err(PlacementError::Unsupported { entry: entry.to_owned(), place });
        match place {
            "header" => {}
            "envelope" => return unsupported("envelope"),
            "partition" => return unsupported("partition"),
            _ => return Err(syntax()),
        }
        if header.is_empty() || header.contains('\0') || parts.next().is_some() {
            return Err(syntax());
        }
        if header == "id" {
            return Err(PlacementError::Id(entry.to_owned()));
        }
        Ok(Self { column: column.to_owned(), header: header.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::{Placement, PlacementError};

    #[test]
    fn reads_columns_into_headers() {
        let place = |column: &str, header: &str| Placement { column: column.into(), header: header.into() };
        assert_eq!(Placement::parse_list(""), Ok(vec![]));
        assert_eq!(
            Placement::parse_list(" type:header , timestamp:header:occurredAt,type:header:eventType"),
            Ok(vec![place("type", "type"), place("timestamp", "occurredAt"), place("type", "eventType")])
        );
    }

    #[test]
    fn refuses_by_name_what_it_cannot_do() {
        let unsupported = |entry: &str, place| PlacementError::Unsupported { entry: entry.into(), place };
        for (text, error) in [
            ("type:envelope:eventType", unsupported("type:envelope:eventType", "envelope")),
            ("a:header,p:partition", unsupported("p:partition", "partition")),
            ("type", PlacementError::Syntax("type".into())),
            ("type:", PlacementError::Syntax("type:".into())),
            (":header", PlacementError::Syntax(":header".into())),
            ("a:header:b:c", PlacementError::Syntax("a:header:b:c".into())),
            ("a:header:", PlacementError::Syntax("a:header:".into())),
            ("a:Header", PlacementError::Syntax("a:Header".into())),
            ("a:header,", PlacementError::Syntax(String::new())),
            ("a:header,b:header:a", PlacementError::Duplicate("a".into())),
            ("id:header", PlacementError::Id("id:header".into())),
            ("type:header:id", PlacementError::Id("type:header:id".into())),
        ] {
            assert_eq!(Placement::parse_list(text), Err(vec![error]), "{text}");
        }
        let both = vec![PlacementError::Syntax("type".into()), unsupported("p:partition", "partition")];
        assert_eq!(Placement::parse_list("type,a:header,p:partition"), Err(both));
    }
}
