use std::io::Result;
use std::sync::{Arc, Mutex};

use indicatif::{ProgressDrawTarget, TermLike};

use super::*;

/// A terminal that keeps what is written to it.
#[derive(Clone, Debug, Default)]
struct Screen(Arc<Mutex<String>>);

impl TermLike for Screen {
    fn width(&self) -> u16 {
        120
    }
    fn move_cursor_up(&self, _: usize) -> Result<()> {
        Ok(())
    }
    fn move_cursor_down(&self, _: usize) -> Result<()> {
        Ok(())
    }
    fn move_cursor_right(&self, _: usize) -> Result<()> {
        Ok(())
    }
    fn move_cursor_left(&self, _: usize) -> Result<()> {
        Ok(())
    }
    fn write_line(&self, line: &str) -> Result<()> {
        self.write_str(line)
    }
    fn write_str(&self, text: &str) -> Result<()> {
        self.0.lock().unwrap().push_str(text);
        Ok(())
    }
    fn clear_line(&self) -> Result<()> {
        self.0.lock().unwrap().clear();
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn the_bar_tells_how_far_it_is_and_what_is_wrong() {
    let screen = Screen::default();
    let bar = bar();
    bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(screen.clone())));
    bar.set_length(4_000_000_000);
    bar.set_position(1_000_000_000);
    bar.set_message("connection reset; trying again");
    bar.force_draw();
    let drawn = screen.0.lock().unwrap().clone();
    let full = drawn.chars().filter(|&c| c == '█').count();
    assert_eq!(full, 10, "a quarter of 40: {drawn}");
    for part in ["1.00 GB/4.00 GB", "B/s", "connection reset; trying again"] {
        assert!(drawn.contains(part), "{part} in {drawn}");
    }
    assert!(!drawn.contains('{'), "{drawn}");
}
