// The report of an ablation: two grids of samples over each other, one class in every cell, buttons that copy commands.
// Everything can be read without this script. Less-than signs and ampersands are avoided: the page is XML, too.
(function () {
  "use strict";
  function byId(id) { return document.getElementById(id); }
  var sheets = Array.from(document.querySelectorAll(".sheet")).map(function (figure) {
    var image = figure.querySelector("img"), kind = figure.dataset.kind;  // its width on the page is another
    return {
      figure: figure, image: image, kind: kind, width: Number(image.getAttribute("width")), height: Number(image.getAttribute("height")), cell: figure.dataset.name, columns: Number(figure.dataset.columns),
      name: figure.dataset.name + (kind === "picture" ? "" : ", " + kind)
    };
  });
  function options(select, names, chosen) {
    names.forEach(function (name, place) {
      var option = new Option(name, String(place));
      option.selected = place === chosen;
      select.add(option);
    });
  }

  function comparison() {
    var left = byId("compare-left"), right = byId("compare-right"), zoom = byId("compare-zoom");
    var wipe = byId("compare-wipe"), flip = byId("compare-flip"), blink = byId("compare-blink");
    var stack = byId("compare-stack"), over = byId("compare-over"), under = byId("compare-under");
    var native = sheets[0].width, timer = null;
    var names = sheets.map(function (sheet) { return sheet.name; });
    options(left, names, 0);
    options(right, names, 1);
    var factors = [1, 2, 3, 4, 6, 8, 12], enlarged = false;
    options(zoom, factors.map(function (factor) { return factor + " ×"; }), 0);

    function mode() { return document.querySelector("[name=compare-mode]:checked").value; }
    function fit() {  // whole factors alone: every pixel of an image is as wide as the next
      var room = byId("compare-bench").clientWidth, most = mode() === "beside" ? (room - 26) / 2 : room - 100;
      var fitting = factors.filter(function (factor) { return Math.min(most, 640) >= factor * native; });
      zoom.value = String(Math.max(0, fitting.length - 1));
    }
    function show() {
      byId("compare-bench").classList.toggle("labelless", mode() === "beside");
      if (!enlarged) { fit(); }
      var a = sheets[left.value], b = sheets[right.value], width = native * factors[zoom.value];
      [[over, a], [under, b]].forEach(function (pair) {
        if (pair[0].src !== pair[1].image.src) { pair[0].src = pair[1].image.src; }
        pair[0].alt = pair[1].image.alt;
        pair[0].style.width = width + "px";
        pair[0].style.height = width * a.height / a.width + "px";
      });
      stack.className = "stack " + (mode() === "wipe" ? "" : mode());
      place(Number(wipe.value));
    }
    function place(value) {
      var a = sheets[left.value].name, b = sheets[right.value].name;
      wipe.value = String(value);
      stack.style.setProperty("--wipe", value);
      stack.classList.toggle("flipped", value === 0 || value === 100);
      var told = value === 100 ? "Showing " + a : value === 0 ? "Showing " + b : "Left of the edge " + a + ", right of it " + b;
      if (mode() === "beside") { told = "On the left " + a + ", on the right " + b; }
      if (mode() === "difference") { told = "Difference of " + a + " and " + b + ", four times as bright: black where they agree"; }
      byId("compare-status").textContent = told + ".";
      wipe.setAttribute("aria-valuetext", told);
    }
    function turn() { place(Number(wipe.value) === 100 ? 0 : 100); }
    function blinking() {
      clearInterval(timer);
      timer = blink.checked ? setInterval(function () { if (mode() === "wipe") { turn(); } }, 1000) : null;
    }
    function drag(event) {
      if (event.buttons !== 1 || mode() !== "wipe") { return; }
      var box = stack.getBoundingClientRect();
      place(Math.round(Math.min(100, Math.max(0, 100 * (event.clientX - box.left) / box.width))));
      event.preventDefault();
    }
    zoom.addEventListener("change", function () { enlarged = true; show(); });
    [left, right].forEach(function (select) { select.addEventListener("change", show); });
    document.querySelectorAll("[name=compare-mode]").forEach(function (radio) { radio.addEventListener("change", show); });
    wipe.addEventListener("input", function () { place(Number(wipe.value)); });
    flip.addEventListener("click", turn);
    blink.addEventListener("change", blinking);
    stack.addEventListener("pointerdown", drag);
    stack.addEventListener("pointermove", drag);
    byId("compare").addEventListener("keydown", function (event) {
      var plain = !(event.ctrlKey || event.metaKey || event.altKey);
      if (event.key === "f" ? plain ? event.target.tagName !== "SELECT" : false : false) { turn(); }
    });
    sheets.forEach(function (sheet, number) {
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = "compare";
      button.setAttribute("aria-label", "compare " + sheet.name + " with " + sheets[0].name);
      button.addEventListener("click", function () {
        left.value = "0";
        right.value = String(number);
        show();
        byId("compare").scrollIntoView();
        flip.focus({ preventScroll: true });
      });
      if (number) { sheet.figure.querySelector("figcaption").append(button); }
    });
    byId("compare").hidden = false;
    show();
  }

  function strips() {
    var rows = byId("strips-rows"), label = byId("strips-class"), kind = byId("strips-kind");
    var count = label.options.length;
    function show() {
      var wanted = kind ? kind.value : "chained", row = Number(label.value);
      rows.replaceChildren();
      sheets.filter(function (sheet) { return sheet.kind === wanted || sheet.kind === "picture"; }).forEach(function (sheet) {
        var name = document.createElement("span"), frame = document.createElement("div"), image = new Image();
        var height = sheet.height / count;
        name.textContent = sheet.cell;
        frame.style.aspectRatio = sheet.width + " / " + height;
        image.src = sheet.image.src;
        image.alt = label.options[row].text + " in " + sheet.name;
        image.style.transform = "translateY(" + -100 * row / count + "%)";
        frame.append(image);
        rows.append(name, frame);
      });
    }
    label.addEventListener("change", show);
    if (kind) { kind.addEventListener("change", show); }
    byId("strips").hidden = false;
    show();
  }

  function copies() {
    document.querySelectorAll(".command").forEach(function (box) {
      var button = document.createElement("button"), code = box.querySelector("code");
      button.type = "button";
      button.textContent = "Copy";
      button.addEventListener("click", function () {
        function told(text) {
          button.textContent = text;
          setTimeout(function () { button.textContent = "Copy"; }, 1500);
        }
        function select() {
          getSelection().selectAllChildren(code);
          told("Selected");
        }
        if (navigator.clipboard) {
          navigator.clipboard.writeText(code.textContent.trim()).then(function () { told("Copied"); }, select);
        } else {
          select();
        }
      });
      box.append(button);
    });
  }

  if (sheets.length > 1) { comparison(); }
  if (sheets.length) { strips(); }
  copies();
})();
