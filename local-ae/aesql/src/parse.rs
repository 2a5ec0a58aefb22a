//! Parses SQL text, with limits that protect the parser's stack.

use sqlparser::ast::{FormatClause, Ident, Query, Statement};
use sqlparser::dialect::ClickHouseDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location as ParserLocation, Token, TokenWithSpan, Tokenizer};

use crate::error::{Error, Kind, Location, Result};
use crate::limits::{Limits, NESTING, OPERATORS, RECURSION, SELECTS, TEXT_BYTES};
use crate::output::Format;

/// A parsed statement.
pub(crate) enum ParsedStatement {
    Select(Box<Query>),
    /// The words after SHOW.
    Show(Vec<(String, Option<Location>)>),
}

pub(crate) fn location(position: ParserLocation) -> Option<Location> {
    (position.line > 0).then_some(Location { line: position.line, column: position.column })
}

fn start(token: &TokenWithSpan) -> Option<Location> {
    location(token.span.start)
}

/// The tokens of one statement.
pub(crate) struct StatementTokens {
    tokens: Vec<TokenWithSpan>,
    /// The statement's length without surrounding white space.
    bytes: usize,
    /// The first string with an escaped character.
    escaped: Option<Location>,
}

/// Splits a text into statements.
pub(crate) fn split(sql: &str) -> Result<Vec<StatementTokens>> {
    if sql.len() > TEXT_BYTES {
        let message = format!("the text is {} bytes long, the limit is {TEXT_BYTES}", sql.len());
        return Err(Error::limit(message));
    }
    // The parser needs strings without escapes; the checks of length and escapes need them as written.
    let tokenize = |unescape| {
        Tokenizer::new(&ClickHouseDialect {}, sql)
            .with_unescape(unescape)
            .tokenize_with_location()
            .map_err(|error| Error::new(Kind::Syntax, error.message).at(location(error.location)))
    };
    let (tokens, written) = (tokenize(true)?, tokenize(false)?);
    let is_end = |token: &TokenWithSpan| token.token == Token::SemiColon;
    let statements = tokens.split(is_end).zip(written.split(is_end));
    Ok(statements
        .filter(|(tokens, _)| tokens.iter().any(is_visible))
        .map(|(tokens, written)| StatementTokens {
            tokens: tokens.to_vec(),
            bytes: written
                .iter()
                .map(|token| token.token.to_string())
                .collect::<String>()
                .trim()
                .len(),
            escaped: written.iter().find(|token| is_escaped(token)).and_then(start),
        })
        .collect())
}

/// Whether a token is a string with an escaped character; the token's escapes are unresolved.
fn is_escaped(token: &TokenWithSpan) -> bool {
    matches!(&token.token, Token::SingleQuotedString(text) if text.contains(['\'', '\\']))
}

/// Refuses a query that is too long, with Analytics Engine's error text.
pub(crate) fn check_length(bytes: usize, limits: &Limits) -> Result<()> {
    if bytes <= limits.query_bytes {
        return Ok(());
    }
    let message =
        format!("SQL was excessively long, exceeded maximum length: {}", limits.query_bytes);
    Err(Error::limit(message).help(format!("it has {bytes} bytes: split it into several queries")))
}

fn is_visible(token: &TokenWithSpan) -> bool {
    !matches!(token.token, Token::Whitespace(_) | Token::EOF)
}

/// Parses the tokens of one statement.
pub(crate) fn parse(statement: StatementTokens, limits: &Limits) -> Result<ParsedStatement> {
    let StatementTokens { mut tokens, bytes, escaped } = statement;
    check_length(bytes, limits).map_err(|error| error.at(tokens.iter().find_map(start)))?;
    if escaped.is_some() {
        return Err(Error::refused(
            "backslash and single-quote characters in strings are unsupported",
        )
        .help("compare hex(x), which has neither: hex('it') = '6974'")
        .at(escaped));
    }
    let visible: Vec<&TokenWithSpan> = tokens.iter().filter(|token| is_visible(token)).collect();
    let Some(first) = visible.first() else {
        return Err(Error::new(Kind::Syntax, "there is no statement"));
    };
    match &first.token {
        Token::Word(word) if word.keyword == Keyword::SHOW => {
            let words = visible.iter().skip(1);
            return Ok(ParsedStatement::Show(
                words.map(|t| (t.token.to_string(), start(t))).collect(),
            ));
        }
        Token::Word(word) if word.keyword == Keyword::SELECT => {}
        Token::Word(word) if word.keyword == Keyword::WITH => {
            return Err(Error::refused("WITH is not documented")
                .help("put the subquery into FROM: SELECT … FROM (SELECT …)")
                .at(start(first)));
        }
        other => {
            return Err(Error::refused(format!(
                "a statement that begins with {other} is not documented"
            ))
            .help("queries begin with SELECT or SHOW")
            .at(start(first)));
        }
    }
    let at = start(first);
    let end = visible.last().and_then(|last| location(last.span.end));
    check_tokens(&visible)?;
    let format = take_format(&mut tokens);
    let mut parser = Parser::new(&ClickHouseDialect {})
        .with_recursion_limit(RECURSION)
        .with_tokens_with_locations(tokens);
    let statement = parser.parse_statement().map_err(|error| syntax(error).at(end))?;
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        return Err(Error::new(Kind::Syntax, format!("unexpected {}", rest.token)).at(start(&rest)));
    }
    match statement {
        Statement::Query(mut query) => {
            if format.is_some() {
                query.format_clause = format.map(FormatClause::Identifier);
            }
            Ok(ParsedStatement::Select(query))
        }
        _ => Err(Error::refused("only SELECT and SHOW are documented").at(at)),
    }
}

/// Refuses tokens that could exhaust the parser's stack, among them types, since the parser does not limit
/// their nesting.
fn check_tokens(tokens: &[&TokenWithSpan]) -> Result<()> {
    let (mut depth, mut operators, mut selects) = (0_usize, 0, 0);
    for (i, token) in tokens.iter().enumerate() {
        let next = tokens.get(i + 1).map(|next| &next.token);
        let refused = |what: &str, help: &str| {
            Err(Error::refused(format!("{what} is not documented")).help(help).at(start(token)))
        };
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::LBracket | Token::LBrace => {
                return refused(
                    &token.token.to_string(),
                    "there are no arrays, maps or parameters",
                );
            }
            Token::DoubleColon => return refused("::", CAST_HELP),
            Token::Word(word) if word.quote_style.is_none() => {
                let called = next == Some(&Token::LParen);
                match word.keyword {
                    Keyword::CAST | Keyword::TRY_CAST | Keyword::SAFE_CAST | Keyword::CONVERT
                        if called =>
                    {
                        return refused(&word.value.to_ascii_uppercase(), CAST_HELP);
                    }
                    Keyword::CASE if tokens.iter().skip(i).any(|token| is_when(token)) => {
                        return Err(Error::refused("unsupported expression type: CASE WHEN")
                            .help("write if(condition, a, b)")
                            .at(start(token)));
                    }
                    Keyword::ARRAY | Keyword::STRUCT if next == Some(&Token::Lt) => {
                        return refused(&word.value, "there are no arrays and no structures");
                    }
                    Keyword::NoKeyword => {}
                    keyword => {
                        operators += 1;
                        selects += usize::from(keyword == Keyword::SELECT);
                    }
                }
            }
            Token::Comma
            | Token::Period
            | Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_) => {}
            _ => operators += 1,
        }
        if depth > NESTING {
            return Err(Error::limit(format!("parentheses are nested deeper than {NESTING}"))
                .at(start(token)));
        }
        if selects > SELECTS {
            return Err(
                Error::limit(format!("there are more than {SELECTS} SELECTs")).at(start(token))
            );
        }
        if operators > OPERATORS {
            return Err(Error::limit(format!("there are more than {OPERATORS} operators"))
                .help("write x IN ('a', 'b', …) for x = 'a' OR x = 'b' OR …")
                .at(start(token)));
        }
    }
    Ok(())
}

fn is_when(token: &TokenWithSpan) -> bool {
    matches!(&token.token, Token::Word(word) if word.keyword == Keyword::WHEN)
}

const CAST_HELP: &str =
    "write toUInt8(x), toUInt32(x) or toDateTime(x); for a string, write format('{}', x)";

/// Converts the parser's error; its text ends with the location.
fn syntax(error: ParserError) -> Error {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => {
            return Error::limit("the query is nested too deeply");
        }
    };
    let Some((message, position)) = text.rsplit_once(" at Line: ") else {
        return Error::new(Kind::Syntax, text);
    };
    let at = position.split_once(", Column: ").and_then(|(line, column)| {
        Some(Location { line: line.parse().ok()?, column: column.parse().ok()? })
    });
    Error::new(Kind::Syntax, message).at(at)
}

/// Removes `FORMAT name` from the end. Without a `FROM`, the parser would read `FORMAT` as an alias: clients
/// test their credentials with `SELECT 1 FORMAT JSON`.
fn take_format(tokens: &mut Vec<TokenWithSpan>) -> Option<Ident> {
    let mut visible = tokens.iter().enumerate().filter(|(_, token)| is_visible(token)).rev();
    let ((_, name), (i, format)) = (visible.next()?, visible.next()?);
    let Token::Word(name) = &name.token else { return None };
    let is_format = matches!(&format.token, Token::Word(word) if word.keyword == Keyword::FORMAT);
    if !is_format || Format::named(&name.value).is_none() {
        return None;
    }
    let name = Ident::new(name.value.clone());
    tokens.truncate(i);
    Some(name)
}

pub(crate) fn format(name: &str, at: Option<Location>) -> Result<Format> {
    Format::named(name).ok_or_else(|| {
        let names = Format::ALL.map(Format::name).join(", ");
        Error::refused(format!("FORMAT {name} is not documented"))
            .help(format!("the formats are {names}"))
            .at(at)
    })
}
