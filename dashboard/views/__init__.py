"""The pages, one module each: what is asked, and what of it is shown where. A page is a function of what is known on
every page (``app.Known``); it holds no state of its own but that of its widgets."""
