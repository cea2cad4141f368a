// The tables lie in the page as gzip; saved they are plain CSV. Without this script the links save them as they lie.

for (const link of document.querySelectorAll("a[download$='.csv.gz']")) {
  link.addEventListener("click", async (event) => {
    event.preventDefault();
    const packed = Uint8Array.from(atob(link.href.split(",")[1]), (letter) => letter.charCodeAt(0));
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const saved = document.createElement("a");
    saved.href = URL.createObjectURL(await new Response(unpacked).blob());
    saved.download = link.download.replace(/\.gz$/, "");
    saved.click();
    setTimeout(() => URL.revokeObjectURL(saved.href), 60000);
  });
}
