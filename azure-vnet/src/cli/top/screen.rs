//! The terminal: a page of its own, which leaves what was there before as it was.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use crossterm::style::Print;
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{execute, queue};

use super::super::Failure;
use super::look::Look;
use super::page::Page;

/// The terminal in our hands; dropping it gives it back.
struct Screen;

impl Screen {
    fn take() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let this = Self;
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(this)
    }

    /// The lines that fit.
    fn draw(text: &str) -> io::Result<()> {
        let (columns, rows) = terminal::size()?;
        let mut out = io::stdout();
        queue!(out, MoveTo(0, 0), Clear(ClearType::All))?;
        for (row, line) in (0..rows).zip(text.lines()) {
            let line: String = line.chars().take(columns.into()).collect();
            queue!(out, MoveTo(0, row), Print(line))?;
        }
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing can be done for a terminal that is gone.
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// Shows a page each `interval`, until q, Escape or Ctrl-C.
pub fn show(interval: Duration) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(format!("the terminal cannot be used: {error}"));
    let _screen = Screen::take().map_err(failed)?;
    let mut before = Look::take()?;
    // The first rates are those of a short time.
    let mut next = Instant::now() + interval.min(Duration::from_millis(500));
    loop {
        if is_over(next).map_err(failed)? {
            return Ok(());
        }
        if Instant::now() >= next {
            let now = Look::take()?;
            let page = Page::between(&before, &now);
            let text = format!(
                "azure-vnet top, every {} s; q ends it\n\n{page}",
                interval.as_secs()
            );
            Screen::draw(&text).map_err(failed)?;
            before = now;
            next = Instant::now() + interval;
        }
    }
}

/// Waits until then, or for a key that ends it.
fn is_over(until: Instant) -> io::Result<bool> {
    while event::poll(until.saturating_duration_since(Instant::now()))? {
        if let Event::Key(KeyEvent {
            code, modifiers, ..
        }) = event::read()?
        {
            let is_interrupt =
                code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL);
            if is_interrupt || matches!(code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
