// Tables of class "sortable": a click on a column's name sorts by it, another turns the order round. Without this script
// they stand in the order in which they were written. Less-than signs and ampersands are avoided: the page is XML, too.
(function () {
  "use strict";
  function valueOf(row, column) {
    var given = row.cells[column].getAttribute("data-value");
    var text = given === null ? row.cells[column].textContent.trim() : given;
    if (text === "" || text === "–") { return null; }
    return isNaN(text) ? text : Number(text);
  }
  function compare(one, other) {
    if (typeof one === typeof other) { return one === other ? 0 : one > other ? 1 : -1; }
    return typeof one === "number" ? -1 : 1;
  }
  function sort(table, column, direction) {
    var body = table.tBodies[0];
    var rows = Array.from(body.rows).map(function (row, place) {
      return { row: row, place: place, value: valueOf(row, column) };
    });
    rows.sort(function (a, b) {
      if (a.value === null || b.value === null) {
        return (a.value === null) - (b.value === null) || a.place - b.place;  // what is missing stays below
      }
      return direction * compare(a.value, b.value) || a.place - b.place;
    });
    rows.forEach(function (entry) { body.appendChild(entry.row); });
  }
  document.querySelectorAll("table.sortable").forEach(function (table) {
    var headers = Array.from(table.tHead.rows[0].cells);
    headers.forEach(function (header, column) {
      if (header.tagName !== "TH") { return; }
      var button = document.createElement("span");  // Chromium prints no real button in a header that is repeated
      button.tabIndex = 0;
      button.setAttribute("role", "button");
      while (header.firstChild) { button.appendChild(header.firstChild); }
      header.appendChild(button);
      button.addEventListener("keydown", function (event) {
        if (event.key !== "Enter") { if (event.key !== " ") { return; } }
        event.preventDefault();
        button.click();
      });
      button.addEventListener("click", function () {
        var down = header.getAttribute("aria-sort") === "ascending";
        headers.forEach(function (other) { other.removeAttribute("aria-sort"); });
        header.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort(table, column, down ? -1 : 1);
      });
    });
  });
})();
