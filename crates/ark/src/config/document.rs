//! The text of a config as a tree whose every key and value knows its line.
//!
//! Deserialising with serde would stop at the first wrong key, and a user would mend a file one
//! error at a time. So the parsed document is walked instead: each table is read through a
//! [`Section`], which counts the keys it was asked for and reports all the others at the end.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// What was found wrong so far, and what turns offsets into lines.
pub(super) struct Report {
    /// Offsets at which lines begin, from the second line on.
    line_starts: Vec<usize>,
    /// The lines that are not TOML. What stands there was guessed, and what is missing elsewhere
    /// may just be unreadable.
    broken_lines: Vec<usize>,
    problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(text: &str) -> Self {
        let line_starts = text.match_indices('\n').map(|(offset, _)| offset + 1).collect();
        Self { line_starts, broken_lines: Vec::new(), problems: Vec::new() }
    }

    /// The line, from 1, of a byte offset.
    fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset) + 1
    }

    /// Says what is wrong with the field at `place`, unless its line could not be read at all.
    pub(super) fn wrong(&mut self, place: &Place, text: impl Into<String>) {
        if !self.broken_lines.contains(&place.line) {
            self.problems.push(Problem { place: place.clone(), text: text.into() });
        }
    }

    /// Says that a field that must be there is not. Nothing where the text is broken, for the
    /// field may be in the part that could not be read; nothing where it is there but wrong.
    pub(super) fn missing(&mut self, place: &Place, text: impl Into<String>) {
        let told = self.problems.iter().any(|problem| problem.place.field == place.field);
        if self.broken_lines.is_empty() && !told {
            self.wrong(place, text);
        }
    }

    /// All problems, in order of line and field.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by(|a, b| a.place.cmp(&b.place));
        self.problems
    }

    /// Parses `text`; what can be read of a broken one is returned too.
    pub(super) fn parse<'t>(&mut self, text: &'t str) -> Spanned<DeTable<'t>> {
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = self.line(error.span().map_or(0, |span| span.start));
            let place = Place { line, field: "toml".to_owned() };
            // One slip makes the parser stumble several times on its line; the first is the cause.
            self.wrong(&place, error.message().replace('\n', ", "));
            self.broken_lines.push(line);
        }
        document
    }
}

/// One table of the document, read key by key. An absent table reads as an empty one.
pub(super) struct Section<'d, 't> {
    table: Option<&'d DeTable<'t>>,
    place: Place,
    known: Vec<&'static str>,
}

impl<'d, 't> Section<'d, 't> {
    /// The whole document.
    pub(super) fn document(document: &'d Spanned<DeTable<'t>>) -> Self {
        let place = Place { line: 1, field: String::new() };
        Self { table: Some(document.get_ref()), place, known: Vec::new() }
    }

    /// Whether the table is in the text.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Where the table stands.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Where the key `key` stands, or would.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let field = match self.place.field.as_str() {
            "" => key.to_owned(),
            section => format!("{section}.{key}"),
        };
        Place { line: self.place.line, field }
    }

    fn get(&mut self, key: &'static str, report: &Report) -> Option<At<&'d DeValue<'t>>> {
        self.known.push(key);
        let (name, value) = self.table?.get_key_value(key)?;
        let mut place = self.place_of(key);
        place.line = report.line(name.span().start);
        Some(At { value: value.get_ref(), place })
    }

    /// The text under `key`.
    pub(super) fn string(&mut self, key: &'static str, report: &mut Report) -> Option<At<String>> {
        let at = self.get(key, report)?;
        let text = string(&at, report)?;
        Some(At { value: text, place: at.place })
    }

    /// The truth value under `key`.
    pub(super) fn boolean(&mut self, key: &'static str, report: &mut Report) -> Option<At<bool>> {
        let At { value, place } = self.get(key, report)?;
        if let Some(value) = value.as_bool() {
            Some(At { value, place })
        } else {
            report.wrong(&place, format!("expected true or false, found {}", describe(value)));
            None
        }
    }

    /// The whole number under `key`; one that is none of 64 bits is `None` in the answer.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        report: &mut Report,
    ) -> Option<At<Option<u64>>> {
        let At { value, place } = self.get(key, report)?;
        if let DeValue::Integer(number) = value {
            let value = u64::from_str_radix(number.as_str(), number.radix()).ok();
            Some(At { value, place })
        } else {
            report.wrong(&place, format!("expected a whole number, found {}", describe(value)));
            None
        }
    }

    /// The list of texts under `key`.
    pub(super) fn strings(
        &mut self,
        key: &'static str,
        report: &mut Report,
    ) -> Option<At<Vec<At<String>>>> {
        let At { value, place } = self.get(key, report)?;
        let items = list(&At { value, place: place.clone() }, report)?;
        let texts = items
            .into_iter()
            .filter_map(|item| {
                Some(At { value: string(&item, report)?, place: item.place.clone() })
            })
            .collect();
        Some(At { value: texts, place })
    }

    /// Under `key`, either one text or a list of texts.
    pub(super) fn string_or_strings(
        &mut self,
        key: &'static str,
        report: &mut Report,
    ) -> Option<StringOrStrings> {
        let is_string = self.table?.get(key)?.get_ref().is_str();
        if is_string {
            self.string(key, report).map(StringOrStrings::One)
        } else {
            self.strings(key, report).map(StringOrStrings::Many)
        }
    }

    /// The table under `key`; absent, or not a table, it reads as an empty one.
    pub(super) fn section(&mut self, key: &'static str, report: &mut Report) -> Self {
        match self.get(key, report) {
            Some(at) => section(at, report),
            None => Self { table: None, place: self.place_of(key), known: Vec::new() },
        }
    }

    /// The tables in the list under `key`.
    pub(super) fn sections(&mut self, key: &'static str, report: &mut Report) -> Vec<Self> {
        let Some(at) = self.get(key, report) else { return Vec::new() };
        let items = list(&at, report).unwrap_or_default();
        items.into_iter().map(|item| section(item, report)).filter(Section::is_present).collect()
    }

    /// Refuses `key` in clear words: the interface has it, this version does not do it yet.
    pub(super) fn unsupported(&mut self, key: &'static str, report: &mut Report) {
        if let Some(at) = self.get(key, report) {
            report.wrong(&at.place, "not supported by this version yet");
        }
        self.known.pop();
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(mut self, unsupported: &[&'static str], report: &mut Report) {
        for key in unsupported {
            self.unsupported(key, report);
        }
        for (name, _) in self.table.into_iter().flatten() {
            let key = name.get_ref().as_ref();
            if self.known.contains(&key) || unsupported.contains(&key) {
                continue;
            }
            let mut place = self.place_of(key);
            place.line = report.line(name.span().start);
            let known = self.known.join(", ");
            report.wrong(&place, format!("unknown key; known here: {known}"));
        }
    }
}

/// One text, or a list of them.
pub(super) enum StringOrStrings {
    One(At<String>),
    Many(At<Vec<At<String>>>),
}

fn string(at: &At<&DeValue<'_>>, report: &mut Report) -> Option<String> {
    let text = at.value.as_str();
    if text.is_none() {
        report.wrong(&at.place, format!("expected a text in quotes, found {}", describe(at.value)));
    }
    text.map(str::to_owned)
}

fn list<'d, 't>(at: &At<&'d DeValue<'t>>, report: &mut Report) -> Option<Vec<At<&'d DeValue<'t>>>> {
    let Some(array) = at.value.as_array() else {
        report.wrong(&at.place, format!("expected a list, found {}", describe(at.value)));
        return None;
    };
    let item = |(index, item): (usize, &'d Spanned<DeValue<'t>>)| At {
        value: item.get_ref(),
        place: Place {
            line: report.line(item.span().start),
            field: format!("{}[{index}]", at.place.field),
        },
    };
    Some(array.iter().enumerate().map(item).collect())
}

fn section<'d, 't>(at: At<&'d DeValue<'t>>, report: &mut Report) -> Section<'d, 't> {
    let table = at.value.as_table();
    if table.is_none() {
        report.wrong(&at.place, format!("expected a table, found {}", describe(at.value)));
    }
    Section { table, place: at.place, known: Vec::new() }
}

/// A value in a few words, for "expected .., found ..".
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(date) => format!("the date {date}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
