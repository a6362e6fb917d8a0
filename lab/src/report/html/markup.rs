//! HTML and SVG under construction. Every text and every attribute's value goes through one place that escapes it, so
//! that no value of a run can become markup; names of elements and attributes come from the program alone.

use std::fmt::{self, Display, Write};

/// The attributes of an element, in the order in which they are written.
pub(super) type Attributes<'a> = &'a [(&'static str, &'a dyn Display)];

/// A piece of a page.
#[derive(Debug, Default)]
pub(super) struct Markup {
    text: String,
}

impl Markup {
    /// An element with what `content` writes into it.
    pub(super) fn element(
        &mut self,
        name: &'static str,
        attributes: Attributes<'_>,
        content: impl FnOnce(&mut Self),
    ) {
        self.start(name, attributes, ">");
        content(self);
        self.text.push_str("</");
        self.text.push_str(name);
        self.text.push('>');
    }

    /// An element with nothing but text in it.
    pub(super) fn leaf(&mut self, name: &'static str, attributes: Attributes<'_>, text: impl Display) {
        self.element(name, attributes, |inner| inner.text(text));
    }

    /// An element that holds nothing.
    pub(super) fn empty(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.start(name, attributes, "/>");
    }

    /// Text.
    pub(super) fn text(&mut self, text: impl Display) {
        // Writing to a String cannot fail; a Display that fails leaves its text out.
        let _ = write!(Escaped(&mut self.text), "{text}");
    }

    /// A comment of one line, in front of everything.
    pub(super) fn comment(&mut self, text: impl Display) {
        self.text.push_str("<!-- ");
        self.text(text);
        self.text.push_str(" -->\n");
    }

    /// The head of an HTML document.
    pub(super) fn doctype(&mut self) {
        self.text.push_str("<!DOCTYPE html>\n");
    }

    /// The program's own style, which is no value of a run.
    pub(super) fn style(&mut self, css: &'static str) {
        self.text.push_str("<style>\n");
        self.text.push_str(css);
        self.text.push_str("</style>");
    }

    /// Another piece, at this place.
    pub(super) fn append(&mut self, other: Self) {
        self.text.push_str(&other.text);
    }

    /// The end of a line, for those who look at the source.
    pub(super) fn line(&mut self) {
        self.text.push('\n');
    }

    /// All of it.
    pub(super) fn into_string(self) -> String {
        self.text
    }

    fn start(&mut self, name: &'static str, attributes: Attributes<'_>, end: &'static str) {
        self.text.push('<');
        self.text.push_str(name);
        for (name, value) in attributes {
            self.text.push(' ');
            self.text.push_str(name);
            self.text.push_str("=\"");
            self.text(value);
            self.text.push('"');
        }
        self.text.push_str(end);
    }
}

/// Writes text so that a browser shows it as it is, between tags and between quotes.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(character),
                // Controls are forbidden in HTML, and those of direction would let a value rearrange its surroundings.
                '\u{0}'..='\u{1f}'
                | '\u{7f}'..='\u{9f}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}' => write!(self.0, "\\u{{{:x}}}", u32::from(character))?,
                _ => self.0.push(character),
            }
        }
        Ok(())
    }
}

/// A length in a drawing, to a tenth of a pixel: more would be bytes that nobody sees.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(super) struct Px(pub(super) f64);

impl Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.1}", self.0);
        f.write_str(text.strip_suffix(".0").unwrap_or(&text))
    }
}

/// A table in a box that scrolls where it is too wide.
pub(super) fn table(out: &mut Markup, caption: &str, head: &[&str], body: impl FnOnce(&mut Markup)) {
    let label = format!("{caption} (scrolls sideways)");
    out.element(
        "div",
        &[("class", &"scroll"), ("tabindex", &"0"), ("role", &"group"), ("aria-label", &label)],
        |out| {
            out.element("table", &[], |out| {
                out.leaf("caption", &[], caption);
                out.element("thead", &[], |out| {
                    out.element("tr", &[], |out| {
                        for name in head {
                            // A column of signs has no name to show.
                            let tag = if name.is_empty() { "td" } else { "th" };
                            let scope: &[(&'static str, &dyn Display)] = &[("scope", &"col")];
                            out.leaf(tag, if name.is_empty() { &[] } else { scope }, name);
                        }
                    });
                });
                out.element("tbody", &[], body);
            });
        },
    );
    out.line();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_cannot_become_markup() {
        let mut markup = Markup::default();
        let hostile = "</script><img src=x onerror=\"a\" b='c'>&amp;";
        markup.leaf("td", &[("title", &hostile)], hostile);
        markup.comment("--><script>");
        let shown = "&lt;/script&gt;&lt;img src=x onerror=&quot;a&quot; b=&#39;c&#39;&gt;&amp;amp;";
        let want = format!("<td title=\"{shown}\">{shown}</td><!-- --&gt;&lt;script&gt; -->\n");
        assert_eq!(markup.into_string(), want);
    }

    #[test]
    fn what_nobody_could_see_is_written_out() {
        let mut markup = Markup::default();
        markup.text("a\0b\u{1b}[1m\u{202e}c\nd é");
        assert_eq!(markup.into_string(), "a\\u{0}b\\u{1b}[1m\\u{202e}c\nd é");
    }

    #[test]
    fn lengths_are_short() {
        let mut markup = Markup::default();
        markup.empty("rect", &[("x", &Px(3.0)), ("y", &Px(-0.26)), ("width", &Px(10.04))]);
        assert_eq!(markup.into_string(), r#"<rect x="3" y="-0.3" width="10"/>"#);
    }
}
