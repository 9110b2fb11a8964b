//! The terminal while `stent top` owns it: another screen, and keys as they are pressed.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver};

use console::{Key, Term};

/// Gives the screen back when it is dropped.
pub struct Terminal {
    term: Term,
    /// Says one word: that somebody wants to leave.
    pub quit: Receiver<()>,
}

impl Terminal {
    /// Takes the terminal; `None` where standard output is none.
    pub fn take() -> io::Result<Option<Self>> {
        let mut term = Term::stdout();
        if !term.is_term() {
            return Ok(None);
        }
        let quit = keys(term.clone());
        term.write_all(b"\x1b[?1049h\x1b[?25l")?;
        Ok(Some(Self { term, quit }))
    }

    /// Draws the lines over those before, cut to the size that the terminal has now.
    pub fn draw(&mut self, text: &str) -> io::Result<()> {
        let (rows, columns) = self.term.size();
        // Home, and each line cleared to its end: nothing flickers.
        let mut frame = String::from("\x1b[H");
        for line in text.lines().take(usize::from(rows.saturating_sub(1))) {
            frame.push_str(&console::truncate_str(line, columns.into(), ""));
            frame.push_str("\x1b[0m\x1b[K\r\n");
        }
        frame.push_str("\x1b[J\x1b[2mq quits\x1b[0m");
        self.term.write_all(frame.as_bytes())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone cannot be given back.
        let _ = self.term.write_all(b"\x1b[?25h\x1b[?1049l");
    }
}

/// The terminal is in raw mode only while a key is read: after the key that quits no other one is.
fn keys(term: Term) -> Receiver<()> {
    let (send, quit) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok(key) = term.read_key_raw() {
            let leaves = [Key::Char('q'), Key::Escape, Key::CtrlC, Key::Char('\u{4}')];
            if leaves.contains(&key) {
                let _ = send.send(());
                return;
            }
        }
    });
    quit
}
