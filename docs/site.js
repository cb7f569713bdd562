// What is wider than the page scrolls by keyboard too, and only that takes the focus.
document$.subscribe(() => {
  const wide = "pre code, .md-typeset__scrollwrap, div.arithmatex";
  for (const element of document.querySelectorAll(wide)) {
    if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
  }
});
